"""Many schedules over one batch, as a tree: what their token counts have in common is computed once.

Schedules agree until their token counts first differ, and there they still share the layer: its attention runs before
anything leaves, and where its feed-forward half treats each token by itself, every schedule takes its rows of one
result. ``shared_logits`` evaluates by the lean path: the best k tokens are among the best k + 1, so the result is made
for the largest count alone, and nothing is kept but the states between the root and the schedule at hand, at most two
a layer. ``Passes`` trains: a shared part is cut off as a ``Joint``, so that at most one network's own graph is held
beside the shared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.token_reduction import Pick, TokenState, drop, restore
from tavt_kit.models.wrap import AdaptiveViT


def shared_logits(
    model: AdaptiveViT, images: Tensor, schedules: Sequence[TokenSchedule]
) -> Iterator[tuple[TokenSchedule, Tensor]]:
    """The logits (B, classes) of a model in eval mode under each schedule, in the order of the tree, by the lean path.

    Every schedule is put through the very operations of ``forward_lean``, on the same rows, though with others beside
    them: bit for bit the same with one thread, and where a product of few rows is shared out among threads equal to
    its last bits.
    """
    yield from _Tree(model)._visit(model.start(images, track=model.restores), schedules, 0)


@dataclass(frozen=True)
class _Remembering(Pick):
    """A pick that can be asked afterwards how the rows that it kept had scored."""

    seen: list[Tensor] = field(default_factory=list)

    def index(self, scores: Tensor) -> Tensor:
        index = super().index(scores)
        self.seen.append(scores.gather(1, index))
        return index


@dataclass(frozen=True, slots=True)
class _Tree:
    model: AdaptiveViT

    def _visit(
        self, state: TokenState, members: Sequence[TokenSchedule], first: int
    ) -> Iterator[tuple[TokenSchedule, Tensor]]:
        """Let ``members`` go on together from a state that has passed the layers below ``first``."""
        for layer in range(first, self.model.layers):
            # By what they keep after the layer, None where they skip it; one where counts change nothing.
            groups: dict[int | None, list[TokenSchedule]] = {}
            for schedule in members:
                kept = _count(self.model, state, schedule, layer) if schedule.runs(layer) else None
                groups.setdefault(kept, []).append(schedule)
            if len(groups) > 1:
                yield from self._part(state, groups, layer)
                return
            if None not in groups:
                state = self.model.advance(state, [layer], members[0].counts, lean=True)
        logits = self.model.finish(state)
        for schedule in members:
            yield schedule, logits

    def _part(
        self, state: TokenState, groups: dict[int | None, list[TokenSchedule]], layer: int
    ) -> Iterator[tuple[TokenSchedule, Tensor]]:
        """One layer for members that keep different counts, then each group on its own way."""
        dropping = {}
        for count, group in groups.items():
            if count is None:
                yield from self._visit(state, group, layer + 1)
            elif count == state.count:
                # They need no scores, so they attend by the fused kernel, whose last bits are others.
                whole = self.model.advance(state, [layer], group[0].counts, lean=True)
                yield from self._visit(whole, group, layer + 1)
            else:
                dropping[count] = group
        if not dropping:
            return
        if self.model.merges:
            kept = _fork(self.model, state, layer)
        else:
            kept = self._fork_lean(state, layer, max(dropping))
        del state  # on the way down only what the fork left is needed
        for count, group in dropping.items():
            yield from self._visit(kept(count), group, layer + 1)

    def _fork_lean(self, state: TokenState, layer: int, most: int) -> Callable[[int], TokenState]:
        """A layer run once for the largest count, and a function that gives what is left of it with fewer tokens."""
        model, backbone = self.model, self.model.backbone
        pick = _Remembering(most, model.prefix, model.score, model.selection)
        whole = backbone.attend_rows(layer, state, pick)
        (scores,) = pick.seen
        # Without a joint the layer is over; where feed looks beyond one token, it has to see what is really left.
        early = backbone.rowwise or not backbone.joint[layer]
        if early:
            whole = backbone.feed(layer, whole)

        def kept(count: int) -> TokenState:
            after = whole
            if count != most:
                after = drop(after, Pick(count, model.prefix, model.score, model.selection).index(scores))
            if not early:
                after = backbone.feed(layer, after)
            return _with_last(after)

        return kept


def _count(model: AdaptiveViT, state: TokenState, schedule: TokenSchedule, layer: int) -> int:
    """What a schedule keeps after a layer; all the same where that changes nothing."""
    last = layer == model.layers - 1 and model.layout.token_pooled
    return schedule.counts[layer] if model.backbone.droppable[layer] and not last else state.count


def _with_last(state: TokenState) -> TokenState:
    """The state after a layer, with what its tokens are now for those who restore them."""
    return state if state.last is None else replace(state, last=restore(state.last, state.tokens, state.place))


def _fork(
    model: AdaptiveViT, state: TokenState, layer: int, cut: Callable[[TokenState], TokenState] = lambda state: state
) -> Callable[[int], TokenState]:
    """A layer run once for all rows, and a function that gives what is left of it with so many tokens.

    What is shared goes through ``cut``, once.
    """
    backbone, watch = model.backbone, Watch(model.score)
    whole = backbone.attend(layer, state, watch)
    scores = watch.scored(layer)
    # Where tokens merge, what a row holds depends on how many stay, so each network feeds its own; without a joint the
    # layer is over; and where feed looks beyond one token, it has to see what is really left.
    early = not model.merges and (backbone.rowwise or not backbone.joint[layer])
    shared = cut(backbone.feed(layer, whole) if early else whole)

    def kept(count: int) -> TokenState:
        after = shared
        if count != after.count:
            after = model.reduce(layer, after, scores, Pick(count, model.prefix, model.score, model.selection))
        return _with_last(after if early else backbone.feed(layer, after))

    return kept


class Joint:
    """Cuts the graph after a state, so that every network that goes on from it can be differentiated on its own.

    The networks' gradients add up at the cut; ``close`` sends their sum through what lies before it, which by the
    linearity of differentiation is what all of them together would have sent, for the price of one.
    """

    def __init__(self, state: TokenState) -> None:
        self._cuts: dict[int, tuple[Tensor, Tensor]] = {}
        self.state = replace(
            state,
            tokens=self._cut(state.tokens),
            last=None if state.last is None else self._cut(state.last),
            along=MappingProxyType({name: self._cut(each) for name, each in state.along.items()}),
            notes=MappingProxyType(_mapped(state.notes, self._cut)),
        )

    def _cut(self, tensor: Tensor) -> Tensor:
        """The same values as a leaf; a tensor that stands in two places stays one."""
        if not tensor.requires_grad:
            return tensor
        if id(tensor) not in self._cuts:
            self._cuts[id(tensor)] = (tensor, tensor.detach().requires_grad_())
        return self._cuts[id(tensor)][1]

    def close(self) -> None:
        """Differentiate what lies before the cut; what is scaled in the networks' own gradients stays so."""
        ends = [(before, leaf.grad) for before, leaf in self._cuts.values() if leaf.grad is not None]
        self._cuts.clear()
        if ends:
            torch.autograd.backward([before for before, _ in ends], [gradient for _, gradient in ends])


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A note with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(each, change) for each in value)
    return value


Learn = Callable[[int, TokenState], None]
"""(network, its state after the last layer): differentiates the network's loss."""


def batch_norms(model: nn.Module) -> tuple[_BatchNorm, ...]:
    """The norms of a model that mix the images of a batch."""
    return tuple(each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats)


@contextmanager
def _frozen(norms: Collection[_BatchNorm]) -> Iterator[None]:
    """Norms by their running statistics, which stay as they are."""
    training = [norm.training for norm in norms]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm, before in zip(norms, training, strict=True):
            norm.train(before)


@dataclass(slots=True)
class Passes:
    """Runs the networks of a sandwich over a batch; the first is the full network, and goes first.

    Batch norms normalise every network by the running statistics that the trained model came with, and leave them: by
    the batch's own each network would be taught under statistics that it is not answered with (Yu et al., ICLR 2019).

    The schedules are that of the full network, then those of its sub-networks; the model's own is not used.
    """

    model: AdaptiveViT
    schedules: Sequence[TokenSchedule]
    learn: Learn
    lean: bool = True

    def run(self, images: Tensor) -> None:
        """(B, 3, H, W); every network is differentiated when this returns."""
        with _frozen(batch_norms(self.model)):
            self._visit(self.model.start(images, track=self.model.restores), range(len(self.schedules)), 0)

    def _visit(self, state: TokenState, members: Sequence[int], first: int) -> None:
        """Let ``members`` go on from a state that has passed the layers below ``first``."""
        if len(members) == 1:
            self._alone(state, members[0], first)
            return
        # By the next layer that they run; None where nothing more can be shared.
        groups: dict[int | None, list[int]] = {}
        for member in members:
            following = next((i for i in range(first, self.model.layers) if self.schedules[member].runs(i)), None)
            groups.setdefault(following, []).append(member)
        layers = tuple(groups)
        if len(layers) == 1 and layers[0] is not None:
            self._together(state, members, layers[0])
            return
        joint = Joint(state)
        for layer, group in groups.items():
            if layer is None:
                for member in group:
                    self._alone(joint.state, member, first)
            else:
                self._visit(joint.state, group, layer)
        joint.close()

    def _together(self, state: TokenState, members: Sequence[int], layer: int) -> None:
        """One layer for several networks."""
        groups: dict[int, list[int]] = {}
        for member in members:
            groups.setdefault(_count(self.model, state, self.schedules[member], layer), []).append(member)
        if len(groups) == 1:
            state = self.model.advance(state, [layer], self.schedules[members[0]].counts, lean=self.lean)
            self._visit(state, members, layer + 1)
            return
        joints: list[Joint] = []

        def cut(shared: TokenState) -> TokenState:
            joints.append(Joint(shared))
            return joints[0].state

        kept = _fork(self.model, state, layer, cut)
        for count, group in groups.items():
            self._visit(kept(count), group, layer + 1)
        joints[0].close()

    def _alone(self, state: TokenState, member: int, first: int) -> None:
        """A network's own way to the end, and its lesson."""
        schedule = self.schedules[member]
        layers = [layer for layer in range(first, self.model.layers) if schedule.runs(layer)]
        self.learn(member, self.model.advance(state, layers, schedule.counts, lean=self.lean))

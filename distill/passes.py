"""The networks of one batch, run one after another, and what several of them have in common once.

Networks agree until their token counts first differ. There they still share the layer itself: its attention runs before
anything is dropped, and its feed-forward half treats each token by itself, so each network takes its rows of one
result. A shared part is cut off as a ``Joint``; so at most one network's own graph is held beside the shared ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.inside import Inside, Placed
from tavt_kit.distill.joint import Joint
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.map_watch import MapWatch
from tavt_kit.models.drop import Pick, restore
from tavt_kit.models.tokens import TokenState
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Learn", "Passes", "batch_norms"]

Learn = Callable[[int, TokenState, Inside], None]
"""(network, its state after the last layer, what was looked at inside): differentiates the network's loss."""


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

    Args:
        model: Its schedule is neither used nor changed.
        schedules: Of the full network, then of its sub-networks; they fit the model.
        learn: See ``Learn``.
        lean: Do no work for rows that do not go on.
        features: Layers whose tokens ``learn`` gets.
        maps: Layers whose attention maps ``learn`` gets.
    """

    model: AdaptiveViT
    schedules: Sequence[TokenSchedule]
    learn: Learn
    lean: bool = True
    features: Collection[int] = ()
    maps: Collection[int] = ()
    norms: tuple[_BatchNorm, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.norms = batch_norms(self.model)

    def run(self, images: Tensor) -> None:
        """(B, 3, H, W); every network is differentiated when this returns."""
        looks = bool(self.features or self.maps)
        track = self.model.restores or (looks and self.model.reduction == "merge")
        with _frozen(self.norms):
            self._visit(self.model.start(images, track=track), range(len(self.schedules)), 0)

    def _visit(self, state: TokenState, members: Sequence[int], first: int) -> None:
        """Let ``members`` go on from a state that has passed the layers below ``first``."""
        if len(members) == 1:
            self._alone(state, members[0], first)
            return
        groups = self._by_next_layer(members, first)
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

    def _by_next_layer(self, members: Sequence[int], first: int) -> Mapping[int | None, list[int]]:
        """Members by the next layer that they run; None where nothing more can be shared."""
        stop = min((*self.features, *self.maps, self.model.layers))
        groups: dict[int | None, list[int]] = {}
        for member in members:
            following = next((i for i in range(first, stop) if self.schedules[member].runs(i)), None)
            groups.setdefault(following, []).append(member)
        return groups

    def _together(self, state: TokenState, members: Sequence[int], layer: int) -> None:
        """One layer for several networks."""
        groups: dict[int, list[int]] = {}
        for member in members:
            groups.setdefault(self._count(state, member, layer), []).append(member)
        if len(groups) == 1:
            state = self.model.advance(state, [layer], self.schedules[members[0]].counts, lean=self.lean)
            self._visit(state, members, layer + 1)
            return
        joint, kept = self._fork(state, layer, tuple(groups))
        for count, group in groups.items():
            self._visit(kept(count), group, layer + 1)
        joint.close()

    def _count(self, state: TokenState, member: int, layer: int) -> int:
        """What a network keeps after a layer; all the same where that changes nothing."""
        model = self.model
        last = layer == model.layers - 1 and model.layout.token_pooled
        free = model.backbone.droppable[layer] and not last
        return self.schedules[member].counts[layer] if free else state.count

    def _fork(self, state: TokenState, layer: int, counts: Sequence[int]) -> tuple[Joint, Callable[[int], TokenState]]:
        """A layer run once, and a function that gives what is left of it with so many tokens."""
        model, backbone = self.model, self.model.backbone
        watch = Watch(model.score)
        whole = backbone.attend(layer, state, watch)
        scores = watch.scores
        if scores is None:
            raise UnsupportedBackbone(f"layer {layer} made no attention call that can be watched")
        # Where tokens merge, what a row holds depends on how many stay, so each network feeds its own.
        early = model.reduction == "drop" and (backbone.rowwise or not backbone.joint[layer])
        joint = Joint(backbone.feed(layer, whole) if early else whole)

        def kept(count: int) -> TokenState:
            after = joint.state
            if count != after.count:
                pick = Pick(count, model.prefix, model.score, model.selection)
                after = model.reduce(layer, after, scores, pick)
            if not early:
                after = backbone.feed(layer, after)
            if after.last is None:
                return after
            return replace(after, last=restore(after.last, after.tokens, after.place))

        return joint, kept

    def _alone(self, state: TokenState, member: int, first: int) -> None:
        """A network's own way to the end, and its lesson."""
        model, schedule, inside = self.model, self.schedules[member], Inside()
        for layer in range(first, model.layers):
            if not schedule.runs(layer):
                continue
            watch = MapWatch(model.score) if layer in self.maps else None
            entered = state.place, state.owner
            state = model.advance(state, [layer], schedule.counts, lean=self.lean, watch=watch)
            if watch is not None:
                inside.maps[layer] = Placed(watch.taken(layer), *entered)
            if layer in self.features:
                inside.features[layer] = Placed(state.tokens, state.place, state.owner)
        self.learn(member, state, inside)

"""Many schedules over one batch, as a tree: what their token counts have in common is computed once.

Schedules agree until their counts first differ, and there they still share the layer: its attention runs before
anything leaves. Where tokens are dropped, the best k tokens are among the best k + 1, and where the feed-forward half
treats each token by itself every schedule takes its rows of one result, made for the largest count. Training shares
likewise, with gradients; here is the lean path, and nothing is kept but the states between the root and the schedule
at hand: at most two a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.drop import Pick, drop, restore
from tavt_kit.models.tokens import TokenState
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["shared_logits"]


def shared_logits(
    model: AdaptiveViT, images: Tensor, schedules: Sequence[TokenSchedule]
) -> Iterator[tuple[TokenSchedule, Tensor]]:
    """The logits (B, classes) under each schedule, in the order of the tree, by the lean path.

    Every schedule is put through the very operations of ``forward_lean``, on the same rows, though with others beside
    them: bit for bit the same with one thread, and where a product of few rows is shared out among threads equal to
    its last bits.

    Args:
        model: In eval mode; its own schedule is neither used nor changed.
        images: (B, 3, H, W).
        schedules: They fit the model; of equal ones each is answered.

    Example:
        >>> import tavt_kit as tk, timm, torch
        >>> model = tk.wrap(timm.create_model("vit_tiny_patch16_224", num_classes=5).eval())
        >>> from tavt_kit.core.layout import TokenLayout
        >>> tapers = [TokenSchedule.taper(TokenLayout(197, 12), ratio=ratio) for ratio in (0.1, 0.2)]
        >>> with torch.no_grad():
        ...     found = dict(shared_logits(model, torch.zeros(2, 3, 224, 224), tapers))
        >>> found[tapers[1]].shape
        torch.Size([2, 5])
    """
    track = model.restores
    yield from _Tree(model)._visit(model.start(images, track=track), schedules, 0)


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
            groups = self._groups(state, members, layer)
            if len(groups) > 1:
                yield from self._part(state, groups, layer)
                return
            if None not in groups:
                state = self.model.advance(state, [layer], members[0].counts, lean=True)
        logits = self.model.finish(state)
        for schedule in members:
            yield schedule, logits

    def _groups(
        self, state: TokenState, members: Sequence[TokenSchedule], layer: int
    ) -> dict[int | None, list[TokenSchedule]]:
        """Members by what they keep after a layer, None where they skip it; one where counts change nothing."""
        last = layer == self.model.layers - 1 and self.model.layout.token_pooled
        free = self.model.backbone.droppable[layer] and not last
        groups: dict[int | None, list[TokenSchedule]] = {}
        for schedule in members:
            kept = schedule.counts[layer] if free else state.count
            groups.setdefault(kept if schedule.runs(layer) else None, []).append(schedule)
        return groups

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
        kept = self._fork(state, layer, max(dropping))
        del state  # on the way down only what the fork left is needed
        for count, group in dropping.items():
            yield from self._visit(kept(count), group, layer + 1)

    def _fork(self, state: TokenState, layer: int, most: int) -> Callable[[int], TokenState]:
        """A layer run once for the largest count, and a function that gives what is left of it with fewer tokens."""
        model, backbone = self.model, self.model.backbone
        if model.reduction == "merge":
            return self._fork_merging(state, layer)
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
            if after.last is None:
                return after
            return replace(after, last=restore(after.last, after.tokens, after.place))

        return kept

    def _fork_merging(self, state: TokenState, layer: int) -> Callable[[int], TokenState]:
        """As ``_fork``: the attention is shared, but what goes into a token depends on how many stay."""
        model = self.model
        watch = Watch(model.score)
        whole = model.backbone.attend(layer, state, watch)
        scores = watch.scores
        assert scores is not None  # no layer merges that makes no attention call

        def kept(count: int) -> TokenState:
            pick = Pick(count, model.prefix, model.score, model.selection)
            return model.backbone.feed(layer, model.reduce(layer, whole, scores, pick))

        return kept

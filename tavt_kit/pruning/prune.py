"""Pruning a model in place: layers first, then heads and channels, the least important units of each group."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.core.model_card import ModelCard
from tavt_kit.errors import BudgetError, BudgetTooTight, DataError, UnsupportedBackbone
from tavt_kit.models.backbones.pruned import blocks_of, cut, keep_blocks, set_heads, set_width, structure_of
from tavt_kit.pruning.coupled import Coupled, coupled
from tavt_kit.pruning.depth import strongest_layers
from tavt_kit.pruning.importance import check_importance, needs_images, scores_of
from tavt_kit.pruning.targets import SHARES, Targets, left_of

_log = logging.getLogger(__name__)

_FREE = ("mlp", "heads")
"""What a budget decides of, unless it is given."""

_NAMED = {"mlp": "feed-forward channels", "heads": "heads"}

_STEPS = 1000
"""Shares that a budget tries are multiples of one in so many; nine or ten of them are tried."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Training images, for gradients and for the choice of layers.

    Args:
        images: (n, 3, H, W), preprocessed.
        labels: (n,)
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A cost that the pruned model must keep to.

    Args:
        cost: Of a bare model; rising with its size.
        most: What it may cost.
        show: A cost in words.
        flag: The budget as it was given, for messages.
    """

    cost: Callable[[nn.Module], float]
    most: float
    show: Callable[[float], str]
    flag: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done.

    Args:
        kept: Places of the blocks that are left, in the model as it was.
        targets: As carried out: with the share that a budget led to.
        units: Kind -> units that are left of each group, in the order of the layers.
    """

    kept: tuple[int, ...]
    targets: Targets
    units: Mapping[str, tuple[int, ...]]


def prune(
    model: nn.Module,
    targets: Targets,
    *,
    importance: str = "magnitude",
    images: LabelledImages | None = None,
    ceiling: Ceiling | None = None,
    seed: int = 0,
) -> Pruned:
    """Take from a model what matters least.

    Args:
        model: Bare, in eval mode; changed in place. Wrap it (again) afterwards.
        targets: What is to be left.
        importance: One of ``IMPORTANCES``.
        images: For ``taylor`` and depth.
        ceiling: A budget; the one share of the hidden channels and heads that meets it is found, where ``targets`` does
            not give one.
        seed: Of ``random``.

    Raises:
        BudgetError: Nothing to prune, or targets that the model does not have.
        BudgetTooTight: No share meets the ceiling.
        UnknownName: No such importance.
        DataError: Images are needed.
        UnsupportedBackbone: A kind that cannot be pruned in this model.

    Example:
        >>> from tavt_kit.models.timm_import import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2).eval()
        >>> prune(model, Targets(mlp=0.5, heads=0.67)).units
        {'mlp': (384, 384), 'heads': (2, 2)}
    """
    check_importance(importance)
    if not targets.asked and ceiling is None:
        raise BudgetError("nothing is to be pruned: give `mlp`, `heads`, `width`, `depth` or `budget`")
    if images is None and (needs_images(importance) or targets.depth is not None):
        raise DataError(f"`depth` and the importance {importance} are judged on training images; give `data`")
    free = [] if ceiling is None else _free(model, targets, ceiling)
    kinds = [kind for kind in SHARES if targets.share(kind) is not None or kind in free]
    for kind in kinds if targets.depth is not None else ():
        coupled(model, kind)  # refused here, not after layers have been tried for minutes
    kept = _take_layers(model, targets, images)
    groups = {kind: coupled(model, kind) for kind in kinds}
    if ceiling is not None:
        targets = _within(model, groups, targets, free, ceiling)
    left = _left(groups, targets)
    flat = [group for found in groups.values() for group in found]
    given = None if images is None else (images.images, images.labels)
    scores = scores_of(model, flat, importance, given, seed)
    best = _best(flat, scores, [count for counts in left.values() for count in counts])
    for group, keep in zip(flat, best, strict=True):
        _apply(model, group, keep)
    return Pruned(tuple(kept), targets, left)


def _free(model: nn.Module, targets: Targets, ceiling: Ceiling) -> list[str]:
    """What the budget decides of: heads too, where they can be pruned."""
    free = [kind for kind in _FREE if targets.share(kind) is None]
    if not free:
        raise BudgetError(
            f"{ceiling.flag} decides how many heads and hidden channels stay, but `mlp` and `heads` are both given; "
            "leave one of them out"
        )
    if free == ["mlp", "heads"]:
        try:
            coupled(model, "heads")
        except UnsupportedBackbone as error:
            _log.info("the budget decides of the feed-forward channels alone: %s", error)
            return ["mlp"]
    return free


def _take_layers(model: nn.Module, targets: Targets, images: LabelledImages | None) -> list[int]:
    if targets.depth is None:
        return list(range(len(blocks_of(model)[1])))
    assert images is not None  # checked by prune
    kept = strongest_layers(model, targets.depth, images.images, images.labels)
    keep_blocks(model, kept)
    return kept


def _left(groups: Mapping[str, Sequence[Coupled]], targets: Targets) -> dict[str, tuple[int, ...]]:
    return {
        kind: tuple(left_of(group, targets.share(kind) or 1.0, targets.round_to) for group in found)
        for kind, found in groups.items()
    }


def _within(
    model: nn.Module, groups: Mapping[str, Sequence[Coupled]], targets: Targets, free: Sequence[str], ceiling: Ceiling
) -> Targets:
    """The targets with the largest share that keeps to the ceiling."""

    def tried(step: int, kinds: Sequence[str], base: Targets) -> tuple[Targets, float]:
        shares: dict[str, Any] = dict.fromkeys(kinds, step / _STEPS)
        now = replace(base, **shares)
        small = copy.deepcopy(model)
        for kind, counts in _left(groups, now).items():
            for group, count in zip(groups[kind], counts, strict=True):
                _apply(small, group, torch.arange(count))
        return now, ceiling.cost(small)

    def largest(low: int, kinds: Sequence[str], base: Targets) -> tuple[int, Targets]:
        """The largest step that fits; ``base`` at ``low`` does, and the whole does not."""
        high = _STEPS
        while high - low > 1:
            middle = (low + high) // 2
            now, cost = tried(middle, kinds, base)
            if cost <= ceiling.most:
                low, base = middle, now
            else:
                high = middle
        return low, base

    whole, cost = tried(_STEPS, free, targets)
    if cost <= ceiling.most:
        if not targets.asked:
            raise BudgetError(f"the model keeps to {ceiling.flag} as it is: it costs {ceiling.show(cost)}")
        return whole
    fewest, least = tried(1, free, targets)
    if least > ceiling.most:
        raise BudgetTooTight(
            f"{ceiling.flag} is out of reach: with the fewest {' and '.join(_NAMED[kind] for kind in free)} the model "
            f"still costs {ceiling.show(least)}; allow that, or give `width` or `depth` as well"
        )
    step, found = largest(1, free, fewest)
    if len(free) == 1:
        return found
    # Heads are few, so they leave room below the budget; channels fill it.
    roomy, cost = tried(_STEPS, ["mlp"], found)
    return roomy if cost <= ceiling.most else largest(step, ["mlp"], found)[1]


def _best(groups: Sequence[Coupled], scores: Sequence[Tensor], left: Sequence[int]) -> list[Tensor]:
    """Of each group the most important units, ascending; of equals the first. Tied groups keep the same."""
    together: dict[str, Tensor] = {}
    for group, score in zip(groups, scores, strict=True):
        if group.tied:
            together[group.tied] = together.get(group.tied, torch.zeros_like(score)) + score
    ranked = [together.get(group.tied, score) for group, score in zip(groups, scores, strict=True)]
    return [
        score.argsort(descending=True, stable=True)[:count].sort().values
        for score, count in zip(ranked, left, strict=True)
    ]


def _apply(model: nn.Module, group: Coupled, keep: Tensor) -> None:
    """Leave the units ``keep`` of a group."""
    if len(keep) == group.units:
        return
    chosen = set(keep.tolist())
    for item in group.cuts:
        places = [place for place, unit in enumerate(item.owner) if unit in chosen]
        cut(model, item.tensor, item.axis, torch.tensor(places))
    if group.kind == "heads":
        set_heads(model, group.name, len(keep))
    if group.kind == "width":
        set_width(model)


def pruned_card(card: ModelCard, model: nn.Module, kept: Sequence[int], provenance: str) -> ModelCard:
    """The card of a pruned model: the structure among the arguments, so that ``load_model`` builds it again.

    Args:
        card: Of the model as it was; it may have been pruned before.
        model: Pruned, bare.
        kept: Places of the blocks that are left, in the model as it was.
        provenance: Is added to the card's.
    """
    plain = {name: value for name, value in card.arguments.items() if name != "pruned"}
    before = card.arguments.get("pruned", {}).get("blocks")
    blocks = list(kept) if before is None else [before[place] for place in kept]
    structure = structure_of(sketch(card.name, {"num_classes": len(card.classes), **plain}), model, blocks)
    arguments = {**plain, "pruned": structure} if structure else plain
    return replace(card, arguments=arguments, weights_sha256="", provenance=f"{card.provenance}; {provenance}")

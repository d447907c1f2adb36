"""Pruning a model in place: layers first, then heads and channels, the least important units of each group.

How much a unit matters is one measure over the weights that are cut with it, as torch-pruning has it:

    magnitude   the mean of the squared weights (Li et al., 2017; over a group as in DepGraph, CVPR 2023)
    taylor      |weight x gradient|: what leaving it out would change of the loss (Molchanov et al., 2019)
    random      none at all; what the others must beat

Gradients are of the cross-entropy on training images. The layers that leave are those whose absence costs least on
training images, one after another.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.core.model_card import ModelCard
from tavt_kit.errors import BudgetError, BudgetTooTight, DataError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones.pim import PimVitBackbone
from tavt_kit.models.backbones.pruned import cut, find_blocks, keep_blocks, record_structure, set_heads, set_width
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tavt_kit.pruning.coupled import Coupled, coupled

SHARES = ("mlp", "heads", "width")


@dataclass(frozen=True, slots=True)
class Targets:
    """What is left of a model.

    Shares of the hidden channels of each feed-forward network, of the heads of each attention and of the embedding
    channels; ``None`` leaves them all. Channels are left in multiples of ``round_to`` (a head counts with all of its).

    Raises:
        BudgetError: A share that is not above 0 and at most 1, fewer than one layer, or a multiple below 1.

    Example:
        >>> Targets(mlp=0.5, depth=10).round_to
        8
    """

    mlp: float | None = None
    heads: float | None = None
    width: float | None = None
    depth: int | None = None
    round_to: int = 8

    def __post_init__(self) -> None:
        for name in SHARES:
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise BudgetError(
                    f"`{name}` is the share that is left, above 0 and at most 1, got {share:g}; 0.5 keeps a half"
                )
        if self.depth is not None and self.depth < 1:
            raise BudgetError(f"`depth` is the number of layers that are left, at least 1, got {self.depth}")
        if self.round_to < 1:
            raise BudgetError(f"`round_to` is a whole number of channels above 0, got {self.round_to}")

    def share(self, kind: str) -> float | None:
        """The share of ``mlp``, ``heads`` or ``width``."""
        return getattr(self, kind)  # type: ignore[no-any-return]

    @property
    def asked(self) -> bool:
        """Whether anything is to be pruned at all."""
        return any(x is not None for x in (self.mlp, self.heads, self.width, self.depth))


def count_left(group: Coupled, share: float, round_to: int) -> int:
    """Units that are left of a group: the nearest number whose channels are a multiple, at least one such step.

    Example:
        >>> count_left(Coupled("mlp", "", 1536, 1, ()), 0.7, 8), count_left(Coupled("heads", "", 6, 64, ()), 0.4, 8)
        (1072, 2)
    """
    step = round_to // math.gcd(round_to, group.size)
    if group.units <= step:
        return group.units
    return min(group.units, max(step, math.floor(group.units * share / step + 0.5) * step))


IMPORTANCES = ("magnitude", "taylor", "random")
_GRADIENT_BATCH = 16
"""Images in one backward pass."""


def check_importance(name: str) -> None:
    """Refuse a measure that nobody knows."""
    if name not in IMPORTANCES:
        raise UnknownName(f"importance is one of {', '.join(IMPORTANCES)}, got {name!r}")


def _score_units(
    model: nn.Module, groups: Sequence[Coupled], name: str, images: LabelledImages | None, seed: int
) -> list[Tensor]:
    """The importance (units,) of every unit of each group; means of a group are 1."""
    if name == "taylor":
        assert images is not None  # checked by prune
        _differentiate(model, images.images, images.labels)
    scores = []
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for group in groups:
                drawn = name == "random"
                found = torch.rand(len(group.cuts[0].owner))[: group.units] if drawn else _measured(model, group, name)
                mean = found.mean()
                scores.append(found / mean if mean > 0 else found)
    finally:
        model.zero_grad(set_to_none=True)
    return scores


def _measured(model: nn.Module, group: Coupled, name: str) -> Tensor:
    """(units,): what a unit has in each matrix, filter and norm that is cut with it, the mean over these."""
    total, parts = torch.zeros(group.units), 0
    for item in group.cuts:
        path, _, leaf = item.tensor.rpartition(".")
        module = model.get_submodule(path)
        if leaf == "weight" and isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.LayerNorm):
            weight = module.weight
            each = (weight * weight.grad).abs() if weight.grad is not None and name == "taylor" else weight.square()
            rows = each.movedim(item.axis, 0).reshape(len(item.owner), -1).sum(dim=1)
            total.index_add_(0, torch.tensor(item.owner), rows.float().cpu())
            parts += 1
    return total / parts


def _differentiate(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Leave the gradient of the mean loss in every parameter."""
    parameters = list(model.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    model.requires_grad_(True)
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, len(images), _GRADIENT_BATCH):
        with torch.enable_grad():
            logits = model(images[start : start + _GRADIENT_BATCH])
            loss = F.cross_entropy(logits, labels[start : start + _GRADIENT_BATCH], reduction="sum")
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(totals, found, strict=True):
            if gradient is not None:
                total += gradient
    for parameter, total, learns in zip(parameters, totals, wanted, strict=True):
        parameter.requires_grad_(learns)
        parameter.grad = total / len(images)


_ANSWER_BATCH = 32


def spared_layers(adaptive: AdaptiveViT, number: int, images: Tensor, labels: Tensor) -> list[int]:
    """The layers that go: again and again the one whose absence costs least loss, as many as asked for or as can go.

    A layer is left out as in TAVT's layer dropout, so nothing is built for the trial. A layer that others rest on
    stays: the fusion of FFVT and TransFG, and the last four of PIM, which are its levels.

    Raises:
        UnsupportedBackbone: No layer of this model can be left out.
    """
    needed = _needed(adaptive)
    kept, gone = list(range(adaptive.layers)), list[int]()
    while len(gone) < min(number, adaptive.layers - max(1, len(needed))):
        losses = _losses(adaptive, kept, [layer for layer in kept if layer not in needed], images, labels)
        weakest = min(losses, key=lambda layer: (losses[layer], layer))
        _log.info("without layer %d the loss is %.4f", weakest, losses[weakest])
        kept.remove(weakest)
        gone.append(weakest)
    return gone


def _needed(adaptive: AdaptiveViT) -> set[int]:
    backbone = adaptive.backbone
    if backbone.static_reason is not None or getattr(adaptive.bare, "rope_mixed", False):
        reason = backbone.static_reason or "its rotary positions are learned for all layers together"
        raise UnsupportedBackbone(
            f"no layers can be taken from {type(adaptive.bare).__name__}: {reason}; prune with `mlp`"
        )
    if isinstance(backbone, PimVitBackbone):
        return set(range(backbone.first, adaptive.layers))
    return {layer for layer, drops in enumerate(backbone.droppable) if not drops}


@torch.no_grad()
def _losses(
    adaptive: AdaptiveViT, kept: Sequence[int], leaving: Sequence[int], images: Tensor, labels: Tensor
) -> dict[int, float]:
    """The mean cross-entropy without each of the ``leaving`` layers; what lies before it is computed once for all."""
    dense = adaptive.dense_schedule
    without = {replace(dense, executed=tuple(one for one in kept if one != layer)): layer for layer in leaving}
    totals = dict.fromkeys(leaving, 0.0)
    for start in range(0, len(images), _ANSWER_BATCH):
        part = slice(start, start + _ANSWER_BATCH)
        for schedule, logits in shared_logits(adaptive, images[part], list(without)):
            totals[without[schedule]] += float(F.cross_entropy(logits, labels[part], reduction="sum"))
    return {layer: total / len(images) for layer, total in totals.items()}


_log = logging.getLogger(__name__)

_FREE = ("mlp", "heads")
"""What a budget decides of, unless it is given."""

_NAMED = {"mlp": "feed-forward channels", "heads": "heads"}

_STEPS = 1000
"""Shares that a budget tries are multiples of one in so many; nine or ten of them are tried."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Training images, for gradients and for the choice of layers."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A cost that the pruned model must keep to, rising with its size; ``flag`` is the budget as it was given."""

    cost: Callable[[nn.Module], float]
    most: float
    show: Callable[[float], str]
    flag: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done: positions of the blocks that are left, and by kind the units that are left in each layer.

    The targets are those carried out, with the share that a budget led to.
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
    """Take from a bare model in eval mode what matters least, in place; wrap it (again) afterwards.

    With a ceiling the one share of the hidden channels and heads that meets it is found, where ``targets`` has none.

    Raises:
        BudgetError: Nothing to prune, or targets that the model does not have; BudgetTooTight under every share.
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
    if images is None and (importance == "taylor" or targets.depth is not None):
        raise DataError(f"`depth` and the importance {importance} are judged on training images; give `data`")
    free = [] if ceiling is None else _free(model, targets, ceiling)
    kinds = [kind for kind in SHARES if targets.share(kind) is not None or kind in free]
    for kind in kinds if targets.depth is not None else ():
        coupled(model, kind)  # refused here, not after layers have been tried for minutes
    kept = list(range(len(find_blocks(model)[1])))
    if targets.depth is not None and images is not None:
        adaptive, depth = wrap(model), targets.depth
        least = max(1, len(_needed(adaptive)))
        if not least <= depth <= adaptive.layers:
            raise BudgetError(
                f"`depth` is the number of layers that are left, here {least} to {adaptive.layers}, got {depth}"
            )
        gone = spared_layers(adaptive, adaptive.layers - depth, images.images, images.labels)
        kept = [layer for layer in kept if layer not in gone]
        keep_blocks(model, kept)
    groups = {kind: coupled(model, kind) for kind in kinds}
    if ceiling is not None:
        targets = _within(model, groups, targets, free, ceiling)
    left = _left(groups, targets)
    flat = [group for found in groups.values() for group in found]
    scores = _score_units(model, flat, importance, images, seed)
    together: dict[str, Tensor] = {}  # tied groups keep the same units
    for group, score in zip(flat, scores, strict=True):
        if group.tied:
            together[group.tied] = together.get(group.tied, torch.zeros_like(score)) + score
    numbers = [count for counts in left.values() for count in counts]
    for group, score, count in zip(flat, scores, numbers, strict=True):
        # The most important units, ascending; of equals the first.
        ranked = together.get(group.tied, score).argsort(descending=True, stable=True)
        _apply(model, group, ranked[:count].sort().values)
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


def _left(groups: Mapping[str, Sequence[Coupled]], targets: Targets) -> dict[str, tuple[int, ...]]:
    return {
        kind: tuple(count_left(group, targets.share(kind) or 1.0, targets.round_to) for group in found)
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
    """The card of a pruned model: the structure among the arguments, so that ``load_model`` builds it again."""
    plain = {name: value for name, value in card.arguments.items() if name != "pruned"}
    before = card.arguments.get("pruned", {}).get("blocks")
    blocks = list(kept) if before is None else [before[place] for place in kept]
    structure = record_structure(sketch(card.name, {"num_classes": len(card.classes), **plain}), model, blocks)
    arguments = {**plain, "pruned": structure} if structure else plain
    return replace(card, arguments=arguments, weights_sha256="", provenance=f"{card.provenance}; {provenance}")

"""Pruning a model in place: layers first, then heads and hidden channels, the least important units of each group.

How much a unit matters is one measure over the weights that are cut with it (as in DepGraph, Fang et al., CVPR 2023):

    magnitude   the mean of the squared weights (Li et al., 2017)
    taylor      |weight x gradient|: what leaving it out would change of the loss (Molchanov et al., 2019)

Gradients are of the cross-entropy on training images. The layers that leave are those whose absence costs least on
training images, one after another.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.core.model_card import ModelCard
from tavt_kit.errors import BudgetError, DataError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones import make_adapter
from tavt_kit.models.backbones.pim import PimVitBackbone
from tavt_kit.models.backbones.pruned import cut, find_blocks, keep_blocks, record_structure, set_heads
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap

KINDS = ("mlp", "heads")
"""What is pruned inside layers."""

_FREE = (timm.layers.Attention, timm.layers.AttentionRope)
"""Attention whose heads need not fill the width; the others of timm reshape to the width of what came in."""

_MLPS = (timm.layers.Mlp, timm.layers.GluMlp, timm.layers.SwiGLU)

IMPORTANCES = ("magnitude", "taylor")
_BATCH = 16
"""Images in one pass."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Targets:
    """What is left of a model.

    Shares of the hidden channels of each feed-forward network and of the heads of each attention; ``None`` leaves them
    all. Channels are left in multiples of ``round_to`` (a head counts with all of its).

    Raises:
        BudgetError: A share that is not above 0 and at most 1, fewer than one layer, or a multiple below 1.
    """

    mlp: float | None = None
    heads: float | None = None
    depth: int | None = None
    round_to: int = 8

    def __post_init__(self) -> None:
        for name in KINDS:
            share = self.share(name)
            if share is not None and not 0 < share <= 1:
                raise BudgetError(
                    f"`{name}` is the share that is left, above 0 and at most 1 such as 0.5, got {share:g}"
                )
        if self.depth is not None and self.depth < 1:
            raise BudgetError(f"`depth` is the number of layers that are left, at least 1, got {self.depth}")
        if self.round_to < 1:
            raise BudgetError(f"`round_to` is a whole number of channels above 0, got {self.round_to}")

    def share(self, kind: str) -> float | None:
        """The share of ``mlp`` or ``heads``."""
        return getattr(self, kind)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Group:
    """The units (``mlp`` or ``heads``) of one module, of ``size`` channels each; all that are ``tied`` keep the same.

    A cut is a tensor and one of its axes, and the unit that each position there belongs to.
    """

    kind: str
    name: str
    units: int
    size: int
    cuts: tuple[tuple[str, int, tuple[int, ...]], ...]
    tied: bool = False


def find_groups(model: nn.Module, kind: str) -> list[Group]:
    """All units of one kind in a bare model in eval mode, from the first block to the last."""
    list_name, blocks = find_blocks(model)
    adapter, kind_of_model = make_adapter(model), type(model).__name__
    if not all(adapter.joint):
        raise UnsupportedBackbone(
            f"{kind} cannot be pruned where attention and feed-forward half share one projection, as in "
            f"{type(blocks[0]).__name__}; prune whole layers with `depth`"
        )
    modules: dict[str, Any] = {f"{list_name}.{name}": module for name, module in blocks.named_modules()}
    attentions = {name: module for name, module in modules.items() if hasattr(module, "fused_attn")}
    if kind == "mlp":
        # Relative positions may come from a small network inside an attention; it has nothing to do with this one.
        inside = tuple(f"{name}." for name in attentions)
        networks = {n: each for n, each in modules.items() if isinstance(each, _MLPS) and not n.startswith(inside)}
        if not networks:
            raise UnsupportedBackbone(f"{kind_of_model} has no feed-forward network whose width could be pruned")
        parts = ("fc1", "fc1_g", "fc1_x", "norm")  # a gate and what it gates may be packed into one
        return [_group(kind, n, each, each.fc2.in_features, 1, "fc2", parts) for n, each in networks.items()]
    if bound := [a for a in attentions.values() if type(a) not in _FREE or getattr(a, "num_kv_groups", 1) != 1]:
        raise UnsupportedBackbone(
            f"heads cannot be pruned from {kind_of_model}: its {type(bound[0]).__name__} needs heads that fill the "
            "embedding width exactly; prune with `mlp` or `depth`"
        )
    if getattr(model, "rope_mixed", False):
        raise UnsupportedBackbone(
            f"heads cannot be pruned from {kind_of_model} with mixed rotary positions, which are learned for each head "
            "of all layers together; prune with `mlp` or `depth`"
        )
    # TransFG multiplies the maps of a head through the layers, so a head is the same one in all of them.
    tied = len(attentions) - 1 if type(adapter).__name__ == "TransFgBackbone" else 0
    rows = ("qkv", "q_proj", "k_proj", "v_proj", "gate", "norm")
    groups = [_group(kind, n, each, each.num_heads, each.head_dim, "proj", rows) for n, each in attentions.items()]
    return [replace(group, tied=number < tied) for number, group in enumerate(groups)]


def _group(kind: str, name: str, module: Any, units: int, size: int, last: str, parts: Sequence[str]) -> Group:
    """The units of a module: columns of its ``last`` part, and rows of the other ``parts`` as far as it has them."""
    owners = tuple(unit for unit in range(units) for _ in range(size))
    cuts = [(f"{name}.{last}.weight", 1, owners)]
    for part, leaf in product(parts, ("weight", "bias")):
        tensor = getattr(getattr(module, part, None), leaf, None)
        if tensor is not None:
            cuts.append((f"{name}.{part}.{leaf}", 0, owners * (len(tensor) // len(owners))))
    return Group(kind, name, units, size, tuple(cuts))


def count_left(group: Group, share: float, round_to: int) -> int:
    """Units that are left of a group: the nearest number whose channels are a multiple, at least one such step.

    Example:
        >>> count_left(Group("mlp", "", 1536, 1, ()), 0.7, 8), count_left(Group("heads", "", 6, 64, ()), 0.4, 8)
        (1072, 2)
    """
    step = round_to // math.gcd(round_to, group.size)
    if group.units <= step:
        return group.units
    return min(group.units, max(step, math.floor(group.units * share / step + 0.5) * step))


def check_importance(name: str) -> None:
    """Refuse a measure that nobody knows."""
    if name not in IMPORTANCES:
        raise UnknownName(f"importance is one of {', '.join(IMPORTANCES)}, got {name!r}")


def _measured(model: nn.Module, group: Group, name: str) -> Tensor:
    """(units,): what a unit has in each matrix and norm that is cut with it, as a multiple of the group's mean."""
    total, parts = torch.zeros(group.units), 0
    for tensor, axis, owner in group.cuts:
        path, _, leaf = tensor.rpartition(".")
        module = model.get_submodule(path)
        if leaf == "weight" and isinstance(module, nn.Linear | nn.LayerNorm):
            weight = module.weight
            each = (weight * weight.grad).abs() if weight.grad is not None and name == "taylor" else weight.square()
            rows = each.movedim(axis, 0).reshape(len(owner), -1).sum(dim=1)
            total.index_add_(0, torch.tensor(owner), rows.float().cpu())
            parts += 1
    scores = total / parts
    return scores / scores.mean() if scores.mean() > 0 else scores


def _differentiate(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Leave the gradient of the mean loss in every parameter."""
    parameters = list(model.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    model.requires_grad_(True)
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, len(images), _BATCH):
        with torch.enable_grad():
            logits = model(images[start : start + _BATCH])
            loss = F.cross_entropy(logits, labels[start : start + _BATCH], reduction="sum")
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += gradient
    for parameter, total, learns in zip(parameters, totals, wanted, strict=True):
        parameter.requires_grad_(learns)
        parameter.grad = total / len(images)


def spared_layers(adaptive: AdaptiveViT, number: int, images: Tensor, labels: Tensor) -> list[int]:
    """The layers that go: again and again the one whose absence costs least loss, as many as asked for or as can go.

    A layer is left out as in TAVT's layer dropout, so nothing is built for the trial. A layer that others rest on
    stays: the fusion of FFVT and TransFG, and the last four of PIM, which are its levels.
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
        raise UnsupportedBackbone(f"no layers can be taken from {type(adaptive.bare).__name__}: {reason}; use `mlp`")
    if isinstance(backbone, PimVitBackbone):
        return set(range(backbone.first, adaptive.layers))
    return {layer for layer, drops in enumerate(backbone.droppable) if not drops}


@torch.no_grad()
def _losses(
    adaptive: AdaptiveViT, kept: Sequence[int], leaving: Sequence[int], images: Tensor, labels: Tensor
) -> dict[int, float]:
    """The mean cross-entropy without each of the ``leaving`` layers; what lies before it is computed once for all."""
    dense = adaptive.dense_schedule
    without = {replace(dense, executed=tuple(other for other in kept if other != layer)): layer for layer in leaving}
    totals = dict.fromkeys(leaving, 0.0)
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        for schedule, logits in shared_logits(adaptive, images[part], list(without)):
            totals[without[schedule]] += float(F.cross_entropy(logits, labels[part], reduction="sum"))
    return {layer: total / len(images) for layer, total in totals.items()}


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Training images, for gradients and for the choice of layers."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was done: positions of the blocks that are left, and by kind the units that are left in each layer."""

    kept: tuple[int, ...]
    units: Mapping[str, tuple[int, ...]]


def prune(
    model: nn.Module, targets: Targets, *, importance: str = "magnitude", images: LabelledImages | None = None
) -> Pruned:
    """Take from a bare model in eval mode what matters least, in place; wrap it (again) afterwards.

    Raises:
        BudgetError: Nothing to prune, or targets that the model does not have.
        UnsupportedBackbone: A kind that cannot be pruned in this model.

    Example:
        >>> from tavt_kit.models.timm_import import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2).eval()
        >>> prune(model, Targets(mlp=0.5, heads=0.67)).units
        {'mlp': (384, 384), 'heads': (2, 2)}
    """
    check_importance(importance)
    if (targets.mlp, targets.heads, targets.depth) == (None, None, None):
        raise BudgetError("nothing is to be pruned: give `mlp`, `heads` or `depth`")
    if images is None and (importance == "taylor" or targets.depth is not None):
        raise DataError(f"`depth` and the importance {importance} are judged on training images; give `data`")
    kinds = [kind for kind in KINDS if targets.share(kind) is not None]
    for kind in kinds if targets.depth is not None else ():
        find_groups(model, kind)  # refused here, not after layers have been tried for minutes
    kept = list(range(len(find_blocks(model)[1])))
    if targets.depth is not None and images is not None:
        adaptive, depth = wrap(model), targets.depth
        least = max(1, len(_needed(adaptive)))
        if not least <= depth <= adaptive.layers:
            raise BudgetError(f"`depth` is the number of layers left, here {least} to {adaptive.layers}, got {depth}")
        gone = spared_layers(adaptive, adaptive.layers - depth, images.images, images.labels)
        kept = [layer for layer in kept if layer not in gone]
        keep_blocks(model, kept)
    groups = [group for kind in kinds for group in find_groups(model, kind)]
    if importance == "taylor" and images is not None:
        _differentiate(model, images.images, images.labels)
    try:
        with torch.no_grad():
            scores = [_measured(model, group, importance) for group in groups]
    finally:
        model.zero_grad(set_to_none=True)
    tied = [score for group, score in zip(groups, scores, strict=True) if group.tied]
    together = torch.stack(tied).sum(dim=0) if tied else None
    units: dict[str, list[int]] = {kind: [] for kind in kinds}
    for group, score in zip(groups, scores, strict=True):
        count = count_left(group, targets.share(group.kind) or 1.0, targets.round_to)
        units[group.kind].append(count)
        if count == group.units:
            continue
        wanted = together if group.tied and together is not None else score
        keep = set(wanted.argsort(descending=True, stable=True)[:count].tolist())  # of equals the first
        for tensor, axis, owner in group.cuts:
            cut(model, tensor, axis, torch.tensor([index for index, unit in enumerate(owner) if unit in keep]))
        if group.kind == "heads":
            set_heads(model, group.name, count)
    return Pruned(tuple(kept), {kind: tuple(counts) for kind, counts in units.items()})


def pruned_card(card: ModelCard, model: nn.Module, kept: Sequence[int], provenance: str) -> ModelCard:
    """The card of a pruned model: the structure among the arguments, so that ``load_model`` builds it again."""
    plain = {name: value for name, value in card.arguments.items() if name != "pruned"}
    before = card.arguments.get("pruned", {}).get("blocks")
    blocks = list(kept) if before is None else [before[index] for index in kept]
    structure = record_structure(sketch(card.name, {"num_classes": len(card.classes), **plain}), model, blocks)
    arguments = {**plain, "pruned": structure} if structure else plain
    return replace(card, arguments=arguments, weights_sha256="", provenance=f"{card.provenance}; {provenance}")

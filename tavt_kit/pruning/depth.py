"""Which layers a model can do without: those whose absence costs least on training images, one after another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import BudgetError, UnsupportedBackbone
from tavt_kit.models.backbones.pim_vit import PimVitBackbone
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.wrap import AdaptiveViT, wrap

_CHUNK = 32
_log = logging.getLogger(__name__)


def strongest_layers(model: nn.Module, depth: int, images: Tensor, labels: Tensor) -> list[int]:
    """The ``depth`` layers to keep, ascending: again and again the one whose absence costs least loss goes.

    A layer is left out as in TAVT's layer dropout, so nothing is built for the trial. A layer that others rest on
    stays: the fusion of FFVT and TransFG, and the last four of PIM, which are its levels.

    Args:
        model: Bare, in eval mode; not changed.
        depth: How many layers are left.
        images: Training images (n, 3, H, W).
        labels: (n,)

    Raises:
        BudgetError: More layers than there are, or fewer than have to stay.
        UnsupportedBackbone: No layer of this model can be left out.
    """
    adaptive = wrap(model)
    needed = _needed(adaptive)
    layers = adaptive.layers
    if not max(1, len(needed)) <= depth <= layers:
        raise BudgetError(
            f"`depth` is the number of layers that are left, here {max(1, len(needed))} to {layers}, got {depth}"
        )
    gone = spared_layers(adaptive, layers - depth, images, labels)
    return [layer for layer in range(layers) if layer not in gone]


def spared_layers(adaptive: AdaptiveViT, number: int, images: Tensor, labels: Tensor) -> list[int]:
    """The layers that go, the weakest first; as many as asked for, or as can go.

    Args:
        adaptive: Wrapped and in eval mode; not changed.
        number: How many.
        images: Training images (n, 3, H, W), where the model is.
        labels: (n,)

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
        reason = (
            "its rotary positions are learned for all layers together"
            if backbone.static_reason is None
            else backbone.static_reason
        )
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
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        for schedule, logits in shared_logits(adaptive, images[part], list(without)):
            totals[without[schedule]] += float(F.cross_entropy(logits, labels[part], reduction="sum"))
    return {layer: total / len(images) for layer, total in totals.items()}

"""The loss of the full network in a distillation step: each family's own, where its training has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tavt_kit.distill.contrastive import contrastive_loss
from tavt_kit.distill.losses import at_least_f32
from tavt_kit.distill.pim_loss import pim_loss
from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.base import Outputs
from tavt_kit.models.backbones.pim_vit import PimVitBackbone
from tavt_kit.models.backbones.transfg import TransFgBackbone
from tavt_kit.models.token_reduction import TokenState
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["FullLoss", "full_loss_of"]


@dataclass(frozen=True, slots=True)
class FullLoss:
    """What the full network is taught from labels.

    Args:
        terms: (model, state after the last layer, its outputs, labels) -> named terms, which are added.
        pairwise: Whether images of a batch meet in it, so that a batch cannot be taken in parts.
    """

    terms: Callable[[AdaptiveViT, TokenState, Outputs, Tensor], Mapping[str, Tensor]]
    pairwise: bool = False


def full_loss_of(model: AdaptiveViT) -> FullLoss:
    """PIM's four terms with their official weights, TransFG's contrastive loss beside the cross-entropy, or that alone.

    Mix-ViT's pure model and FFVT are taught here by cross-entropy: the mixing branch of the one belongs to its
    fine-tuning and is in no run, and the other has no loss of its own.
    """
    if isinstance(model.backbone, PimVitBackbone):
        return FullLoss(_pim)
    if isinstance(model.backbone, TransFgBackbone):
        return FullLoss(_transfg, pairwise=True)
    return FullLoss(_plain)


def _plain(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> Mapping[str, Tensor]:
    return {"cross_entropy": F.cross_entropy(at_least_f32(outputs.logits), labels)}


def _transfg(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> Mapping[str, Tensor]:
    _refuse_mixed(labels, "TransFG's contrastive")
    apart = contrastive_loss(at_least_f32(model.pooled(state)), labels)
    return {**_plain(model, state, outputs, labels), "contrastive": apart}


def _pim(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> Mapping[str, Tensor]:
    _refuse_mixed(labels, "PIM's")
    if not outputs.named:  # in evaluation it gives its logits alone
        return _plain(model, state, outputs, labels)
    return {"pim": pim_loss({name: at_least_f32(value) for name, value in outputs.named.items()}, labels)}


def _refuse_mixed(labels: Tensor, whose: str) -> None:
    if labels.is_floating_point():
        raise TrainingError(f"{whose} loss reads whole labels, so pictures cannot be mixed; set mixup and cutmix to 0")

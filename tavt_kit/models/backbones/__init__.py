"""One adapter per model family, and the one place that chooses it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tavt_kit.core.registry import Registry
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones import fusion as fusion  # in timm's registry from here on
from tavt_kit.models.backbones import mixvit as mixvit
from tavt_kit.models.backbones import pim as pim
from tavt_kit.models.backbones import vitae as vitae
from tavt_kit.models.backbones.base import Backbone, Outputs, StaticModel
from tavt_kit.models.backbones.fusion import FusionViT
from tavt_kit.models.backbones.timm_vit import TimmVit, is_timm_vit
from tavt_kit.models.backbones.vitae_adapter import VitaeBackbone

__all__ = ["Backbone", "Outputs", "make_adapter"]

ADAPTERS: Registry[Callable[[nn.Module], Backbone]] = Registry("a model class", "tavt_kit.backbones", {})
"""Adapters of other packages, by the name of the model's class."""

_REFUSED = {
    "NaFlexVit": "it packs images of different sizes into one sequence",
    "VisionTransformerSAM": "its window attention needs the whole grid",
    "Hiera": "it merges its grid between stages",
    "SwinTransformer": "its window attention needs the whole grid",
}


def make_adapter(model: nn.Module) -> Backbone:
    """The adapter for a model; UnsupportedBackbone where none knows its class, or one refuses an option of it."""
    if is_timm_vit(model):
        return TimmVit(model)
    if isinstance(model, FusionViT | pim.Pim):
        return model.adapter()
    if isinstance(model, vitae.Vitae):
        return VitaeBackbone(model)
    if isinstance(getattr(model, "static_reason", None), str):
        return StaticModel(model)
    name = type(model).__name__
    if name in ADAPTERS:
        return ADAPTERS[name](model)
    reason = _REFUSED.get(name, "no adapter knows how its tokens run")
    raise UnsupportedBackbone(
        "tokens can be dropped from timm's VisionTransformer, DeiT, BEiT, EVA/DINOv3 and relative-position ViTs, "
        f"from FFVT, TransFG, ViTAE and PIM over a ViT, but not from {name}: {reason}; "
        "choose one of `fgvc-kit models`"
    )

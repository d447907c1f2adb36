"""Dropout and drop path, set on a model that exists already: on the model's own modules, which have no weights."""

from __future__ import annotations

from torch import nn

from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.vitae import Vitae
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["set_drop_path", "set_dropout"]


def set_drop_path(model: AdaptiveViT, rate: float) -> None:
    """Leave out the branches of blocks at random while training (Huang et al., stochastic depth, ECCV 2016).

    The rate rises from 0 at the first block to ``rate`` at the last, as timm's models have it, and as ViTAE's own rule
    has it for ViTAE.

    Raises:
        TrainingError: The model's blocks have no place for it.
    """
    if isinstance(model.bare, Vitae):
        model.bare.set_drop_path(rate)
        return
    blocks = [module for module in model.bare.modules() if _paths(module)]
    if not blocks:
        raise TrainingError(f"{type(model.bare).__name__} has no blocks with drop path; leave `drop_path` at 0")
    for number, block in enumerate(blocks):
        for name in _paths(block):
            setattr(block, name, timm.layers.DropPath(rate * number / max(1, len(blocks) - 1)))


def _paths(module: nn.Module) -> list[str]:
    kinds = (nn.Identity, timm.layers.DropPath)
    children = module.named_children()
    return [name for name, child in children if name.startswith("drop_path") and isinstance(child, kinds)]


def set_dropout(model: AdaptiveViT, rate: float) -> None:
    """Dropout after the position embeddings and after both layers of each feed-forward half, as ViT-pytorch has it.

    Raises:
        TrainingError: The model has none of these.
    """
    found = [module for name, module in model.bare.named_modules() if _drops(name, module)]
    if not found:
        raise TrainingError(f"{type(model.bare).__name__} has no places for dropout; leave `dropout` at 0")
    for module in found:
        assert isinstance(module, nn.Dropout)
        module.p = rate


def _drops(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and name.endswith(("pos_drop", "mlp.drop1", "mlp.drop2"))

"""Four feature levels of a timm model, as FGVC-PIM reads them.

    ViT            the outputs of the last four blocks, prefix tokens included, without the final norm
    Swin           the output of each stage after its patch merging (the last stage has none)
    EfficientNet   the last four stages of blocks (on B7: grids of 28, 28, 14 and 14 at 448 px)
    any other      the last four of the levels that timm's ``forward_intermediates`` gives

Source: the builders of chou141253/FGVC-PIM (arXiv 2202.03822); the last line is our own generality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import DataError, UnsupportedBackbone
from tavt_kit.models.backbones.timm_vit import TimmVit, is_timm_vit
from tavt_kit.models.timm_import import timm

LEVELS = 4


@dataclass(frozen=True, slots=True)
class Level:
    """The shape of a level.

    Args:
        places: Tokens or grid places, S.
        width: Channels, C.
        grid: (rows, columns) of a convolutional map; ``None`` of tokens, whose count is frozen.
    """

    places: int
    width: int
    grid: tuple[int, int] | None


def make_backbone(name: str, size: tuple[int, int], in_chans: int, options: Mapping[str, Any]) -> nn.Module:
    """A timm model without what comes after its last level, so that every weight is one that is used.

    Args:
        name: timm's.
        size: (H, W) of the images; models of a fixed size are created for it.
        in_chans: Channels of the images.
        options: More arguments for creating it.

    Raises:
        UnsupportedBackbone: The model has fewer than four levels, or does not give them.
        DataError: An image size that is no multiple of a ViT's patches.
    """
    model: Any = whole_backbone(name, size, in_chans, {"num_classes": 0, **options})
    if is_timm_vit(model):
        _trim_vit(name, model, size)
    elif _is_swin(model):
        model.norm = model.head = nn.Identity()
    else:
        _refuse_levels(name, model)
        model.prune_intermediate_layers(LEVELS, prune_norm=True, prune_head=True, **_indexing(model))
    return model  # type: ignore[no-any-return]


def whole_backbone(name: str, size: tuple[int, int], in_chans: int, options: Mapping[str, Any]) -> nn.Module:
    """The timm model with all of its parts, created for the size if it has a fixed one."""
    given: dict[str, Any] = {"in_chans": in_chans, **options}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        given["img_size"] = size
    return timm.create_model(name, **given)  # type: ignore[no-any-return]


def plan_levels(name: str, size: tuple[int, int], in_chans: int, options: Mapping[str, Any]) -> tuple[Level, ...]:
    """The shapes of the levels at an image size, by a pass that needs no memory and computes nothing."""
    with torch.device("meta"), torch.no_grad():
        model = make_backbone(name, size, in_chans, options).eval()
        maps = _maps(model, torch.zeros(1, in_chans, *size))
    return tuple(
        Level(m.shape[2] * m.shape[3], m.shape[1], (m.shape[2], m.shape[3]))
        if m.dim() == 4
        else Level(m.shape[1], m.shape[2], None)
        for m in maps
    )


def levels_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """(B, 3, H, W) -> four levels (B, S, C), from shallow to deep."""
    return [m.flatten(2).transpose(1, 2) if m.dim() == 4 else m for m in _maps(model, images)]


def _maps(model: Any, images: Tensor) -> list[Tensor]:
    """Tokens (B, S, C), or convolutional maps (B, C, h, w)."""
    if is_timm_vit(model):
        return _vit_levels(TimmVit(model), images)
    if _is_swin(model):
        return _swin_levels(model, images)
    maps: list[Tensor] = model.forward_intermediates(images, LEVELS, intermediates_only=True, **_indexing(model))
    return maps


def _vit_levels(backbone: TimmVit, images: Tensor) -> list[Tensor]:
    state, levels = backbone.embed(images), []
    for layer in range(backbone.layers):
        state = backbone.feed(layer, backbone.attend(layer, state, None))
        levels.append(state.tokens)
    return levels[-LEVELS:]


def _swin_levels(model: Any, images: Tensor) -> list[Tensor]:
    """timm merges patches at the start of a stage; here a level is what the next stage has merged already."""
    x, levels = model.patch_embed(images), []
    stages = list(model.layers)
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        x = stage.blocks(x)
        x = x if following is None else following.downsample(x)
        levels.append(x.flatten(1, 2))
    return levels[-LEVELS:]


def _is_swin(model: nn.Module) -> bool:
    return type(model) is timm.models.swin_transformer.SwinTransformer


def _indexing(model: nn.Module) -> dict[str, Any]:
    return {"extra_blocks": True} if type(model) is timm.models.efficientnet.EfficientNet else {}


def _trim_vit(name: str, model: Any, size: tuple[int, int]) -> None:
    if len(model.blocks) < LEVELS:
        raise UnsupportedBackbone(f"PIM reads the last {LEVELS} blocks of a ViT, but {name} has {len(model.blocks)}")
    patch = model.patch_embed.patch_size
    if any(edge % step for edge, step in zip(size, patch, strict=True)):
        raise DataError(
            f"{name} cuts images into patches of {patch[0]}x{patch[1]}, so its image size must be a multiple of "
            f"that, got {size[0]}x{size[1]}"
        )
    for part in ("norm", "fc_norm", "head"):
        setattr(model, part, nn.Identity())
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool = None


def _refuse_levels(name: str, model: Any) -> None:
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "prune_intermediate_layers"):
        raise UnsupportedBackbone(f"PIM needs a timm model with forward_intermediates, which {name} has not")
    found = len(model.blocks) if _indexing(model) else len(model.feature_info)
    if found < LEVELS:
        raise UnsupportedBackbone(f"PIM reads {LEVELS} levels, but {name} has {found}; choose a deeper model")

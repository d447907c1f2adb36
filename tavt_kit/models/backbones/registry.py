"""Putting our models into timm's registry, so that a name creates them wherever a timm name does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tavt_kit.models.timm_import import timm

VIT_SIZES: Mapping[str, Mapping[str, Any]] = {
    "base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "base_patch32": {"patch_size": 32, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "large_patch16": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "large_patch32": {"patch_size": 32, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge_patch14": {"patch_size": 14, "embed_dim": 1280, "depth": 32, "num_heads": 16},
}
"""The sizes of ViT-pytorch's configurations."""

FGVC_EVALUATION: Mapping[str, Any] = {
    "input_size": (3, 448, 448), "crop_pct": 448 / 600, "crop_mode": "squash", "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "first_conv": "patch_embed.proj",
}  # fmt: skip
"""The fine-grained recipes' evaluation: every edge to 600 px, then 448 from the centre."""


def register(
    module: str,
    kind: Callable[..., nn.Module],
    sizes: Mapping[str, Mapping[str, Any]],
    evaluation: Mapping[str, Any],
) -> None:
    """Register the sizes of a model class under their names.

    None of them has weights that timm could fetch.

    Args:
        module: ``__name__`` of the module that defines the class; timm groups models by it.
        kind: The class; it takes ``img_size`` and ``num_classes`` among its arguments.
        sizes: Name -> arguments.
        evaluation: timm's configuration of all of them.
    """
    home = sys.modules[module]
    home.default_cfgs = timm.models.generate_default_cfgs(  # type: ignore[attr-defined]
        {
            name: {"url": "", "num_classes": 1000, "pool_size": None, "classifier": "head", **evaluation}
            for name in sizes
        }
    )
    for name, shape in sizes.items():
        entry = _entry(name, kind, {"img_size": evaluation["input_size"][-1], **shape})
        entry.__module__ = module
        setattr(home, name, timm.models.register_model(entry))


def _entry(name: str, kind: Callable[..., nn.Module], shape: Mapping[str, Any]) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        given = {**shape, **options}
        model: nn.Module = timm.models.build_model_with_cfg(kind, name, pretrained, **given)
        return model

    create.__name__ = create.__qualname__ = name
    return create

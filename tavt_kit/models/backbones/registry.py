"""Our models in timm's registry, so that a name creates them wherever a timm name does; the overlapping split.

The overlapping split of TransFG and TAVT cuts patches that are closer to one another than they are wide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from tavt_kit.errors import DataError
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
    module: str, kind: Callable[..., nn.Module], sizes: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any]
) -> None:
    """Register the sizes of a model class under their names, with timm's configuration of all of them.

    None of them has weights that timm could fetch; timm groups models by the ``module`` that defines the class.
    """
    home = sys.modules[module]
    home.default_cfgs = timm.models.generate_default_cfgs(  # type: ignore[attr-defined]
        {
            name: {"url": "", "num_classes": 1000, "pool_size": None, "classifier": "head", **evaluation}
            for name in sizes
        }
    )

    def create(name: str, shape: Mapping[str, Any], pretrained: bool = False, **options: Any) -> nn.Module:
        model: nn.Module = timm.models.build_model_with_cfg(kind, name, pretrained, **{**shape, **options})
        return model

    for name, shape in sizes.items():
        entry: Any = partial(create, name, {"img_size": evaluation["input_size"][-1], **shape})
        entry.__name__, entry.__module__ = name, module
        setattr(home, name, timm.models.register_model(entry))


_SLIDE_STEP = 12
"""The official step, whatever the patch (`--slide_step 12` of TransFG and TAVT)."""


class OverlappingPatchEmbed(timm.layers.PatchEmbed):  # type: ignore[misc]
    """timm's patch embedding with a stride of its own: ``(edge - patch) // stride + 1`` patches a side.

    What remains at the right and lower edge is not seen, as in TransFG (He et al., AAAI 2022, section 3.2).
    """

    def __init__(self, *arguments: Any, stride: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.proj.stride = (stride, stride)
        self.slide_step = stride
        self._lay_out(self.img_size)

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """As timm's, with the grid of the stride."""
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        self._lay_out(self.img_size)

    def _lay_out(self, img_size: tuple[int, int]) -> None:
        self.grid_size = tuple(
            (edge - patch) // self.slide_step + 1 for edge, patch in zip(img_size, self.patch_size, strict=True)
        )
        self.num_patches = self.grid_size[0] * self.grid_size[1]


def overlapping(slide_step: Any) -> dict[str, Any]:
    """Arguments of a timm VisionTransformer whose patches lie ``slide_step`` pixels apart."""
    if not isinstance(slide_step, int) or isinstance(slide_step, bool) or slide_step < 1:
        raise DataError(f"a slide step is a whole number of pixels above 0, got {slide_step!r}")
    return {"embed_layer": partial(OverlappingPatchEmbed, stride=slide_step)}


def with_overlap(family: str) -> dict[str, Mapping[str, Any]]:
    """The sizes of a family, and the same with the official overlapping split, their names ending in ``_overlap12``."""
    sizes = {f"{family}_{size}": shape for size, shape in VIT_SIZES.items()}
    split = {f"{name}_overlap{_SLIDE_STEP}": {**shape, **overlapping(_SLIDE_STEP)} for name, shape in sizes.items()}
    return {**sizes, **split}


register(
    __name__,
    timm.models.vision_transformer.VisionTransformer,
    {name: shape for name, shape in with_overlap("vit").items() if "overlap" in name},
    FGVC_EVALUATION,
)

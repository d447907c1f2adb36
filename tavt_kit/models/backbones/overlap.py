"""The overlapping split of TransFG and TAVT: patches that are cut closer to one another than they are wide."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from tavt_kit.errors import DataError
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, VIT_SIZES, register
from tavt_kit.models.timm_import import timm

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
    """Arguments of a timm VisionTransformer whose patches lie ``slide_step`` pixels apart.

    Raises:
        DataError: It is no whole number above 0.
    """
    if not isinstance(slide_step, int) or isinstance(slide_step, bool) or slide_step < 1:
        raise DataError(f"a slide step is a whole number of pixels above 0, got {slide_step!r}")
    return {"embed_layer": partial(OverlappingPatchEmbed, stride=slide_step)}


def with_overlap(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Each size, and beside it the same with the official overlapping split, its name ending in ``_overlap12``."""
    split = {f"{name}_overlap{_SLIDE_STEP}": {**shape, **overlapping(_SLIDE_STEP)} for name, shape in sizes.items()}
    return {**sizes, **split}


register(
    __name__,
    timm.models.vision_transformer.VisionTransformer,
    {f"vit_{size}": shape for size, shape in with_overlap(VIT_SIZES).items() if size not in VIT_SIZES},
    FGVC_EVALUATION,
)

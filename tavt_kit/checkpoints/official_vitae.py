"""Weight files of ViTAE and ViTAEv2 in their official sizes, whose tensors fit our models by their own names.

The checkpoints are those of timm 0.4's saver (``.pth.tar``). Of averaged and plain weights the averaged ones are read,
as the official validation does; where a training's global batch was below 512, the official recipe's average never
moved from its start, and the plain ones must be saved on their own first.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tavt_kit.checkpoints.official_vit import ConvertOptions, Official, count_layers, fit_positions, shape_of
from tavt_kit.errors import CheckpointError
from tavt_kit.models.backbones.vitae import VARIANTS

_SIZES = {
    (shape.get("nc_depth", (0, 0, 7)), shape.get("token_dims", (256,))[-1]): name for name, shape in VARIANTS.items()
}
"""Normal cells by stage, and the last width -> the official size."""


def read_vitae(tensors: Mapping[str, Tensor], options: ConvertOptions) -> Official | None:
    """A file of either version, or ``None`` if it is of another family.

    The size is told by the depths and the last width; no key tells how large an image it was trained on (224 px unless
    asked for).
    """
    if not any(name.startswith("layers.0.RC.") for name in tensors):
        return None
    stages = count_layers(tensors, "layers.")
    depths = tuple(count_layers(tensors, f"layers.{stage}.NC.") for stage in range(stages))
    (width,) = shape_of(tensors, f"layers.{stages - 1}.NC.0.norm1.weight", 1)
    name = _SIZES.get((depths, width))
    if name is None:
        raise CheckpointError(
            f"a ViTAE of {', '.join(map(str, depths))} normal cells, {width} wide in the end, is none of the official "
            f"sizes {', '.join(VARIANTS)}; nothing was loaded"
        )
    size, table = options.image_size or 224, {}
    if (positions := "layers.0.RC.pos_embed") in tensors:
        size, table[positions] = fit_positions(tensors, options, VARIANTS[name]["downsample_ratios"][0], positions)
    arguments = {"num_classes": shape_of(tensors, "head.bias", 1)[0], "img_size": [size, size]}
    family, system = ("vitaev2", "ViTAEv2") if name.startswith("vitaev2") else ("vitae", "ViTAE")
    return Official(family, name, arguments, {**tensors, **table}, system)

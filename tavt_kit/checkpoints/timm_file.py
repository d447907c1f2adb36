"""Weight files of timm's Vision Transformers in timm's own names.

Which of timm's models a file is of, is told by the user or by what lies in or beside it: shapes are shared by models
that normalise their images differently, and no key tells these apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tavt_kit.checkpoints.architecture import check_name, head_names, sketch
from tavt_kit.checkpoints.official_vit import ConvertOptions, Official, shape_of
from tavt_kit.core.records import read_json
from tavt_kit.errors import CheckpointError, UnsupportedBackbone
from tavt_kit.models.backbones.timm_vit import is_timm_vit
from tavt_kit.models.timm_import import timm


def read_timm(
    tensors: Mapping[str, Tensor], options: ConvertOptions, folder: Path, architecture: str | None = None
) -> Official | None:
    """A file in timm's names, or ``None`` if its names are others.

    Its architecture is told by the options, by the file itself, or by a ``config.json`` of timm's hub in its folder.
    """
    if "patch_embed.proj.weight" not in tensors or "blocks.0.norm1.weight" not in tensors:
        return None
    name, config = options.name or architecture, folder / "config.json"
    if name is None and config.is_file():
        content = read_json(config)
        name = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(name, str) or (name != options.name and not timm.is_model(name)):
        raise CheckpointError(
            "the file is in timm's names, and no key tells heads, activation or how images are normalised; give "
            "`name`, the model that it was made with"
        )
    check_name(name)
    if "head.weight" not in tensors and options.classes is None:
        raise CheckpointError("the file has no classifier; give the classes (`classes` or `data`) of a new one")
    rows = shape_of(tensors, "head.weight", 2)[0] if "head.weight" in tensors else len(options.classes or ())
    arguments: dict[str, Any] = {"num_classes": rows}
    laid_out = sketch(name, arguments)
    if not is_timm_vit(laid_out):
        raise UnsupportedBackbone(f"`name` is that of one of timm's Vision Transformers, but {name} is none")
    if (size := options.image_size or _trained_size(tensors, laid_out)) is not None:
        arguments["img_size"] = [size, size]
    absent = () if "head.weight" in tensors else head_names(laid_out)
    return Official("timm", name, arguments, dict(tensors), f"timm's {name}", None, absent)


def _trained_size(tensors: Mapping[str, Tensor], laid_out: Any) -> int | None:
    """Pixels an edge by the table of positions, absolute or relative; ``None`` for the model's own."""
    own, (rows, columns) = laid_out.state_dict(), laid_out.patch_embed.grid_size
    for name, table in tensors.items():
        # A relative one has a row for each distance, -(n - 1) to n - 1 both ways; both may have some for other tokens.
        relative = name.endswith("relative_position_bias_table")
        if (name != "pos_embed" and not relative) or name not in own or table.shape == own[name].shape:
            continue
        shape, axis = shape_of(tensors, name, own[name].dim()), 0 if relative else 1
        patches = (2 * rows - 1) * (2 * columns - 1) if relative else rows * columns
        squared = max(0, shape[axis] - own[name].shape[axis] + patches)
        side = math.isqrt(squared)
        if side == 0 or side * side != squared or (relative and side % 2 == 0):
            raise CheckpointError(f"{name} has the shape {list(shape)}, which is of no square grid for this model")
        return int(laid_out.patch_embed.img_size[0] // rows * ((side + 1) // 2 if relative else side))
    return None

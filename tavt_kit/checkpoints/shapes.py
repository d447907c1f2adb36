"""What shapes in a weight file tell, asked for such that a tensor that is absent or mis-shaped is named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tavt_kit.errors import CheckpointError

HEADS = {768: 12, 1024: 16, 1280: 16}
"""Width -> attention heads of ViT-B, L and H; no key of a torch file tells them."""


def shape_of(tensors: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that the architecture is read off.

    Raises:
        CheckpointError: It is absent, empty, or has another number of dimensions than ``rank``.
    """
    if name not in tensors:
        raise CheckpointError(f"the file lacks {name}, which tells the architecture; nothing was loaded")
    shape = tuple(tensors[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"{name} must have {rank} dimension{'s' * (rank > 1)}, none of them empty, but has the shape "
            f"{list(shape)}; nothing was loaded"
        )
    return shape


def grid_side(tensors: Mapping[str, Tensor], name: str = "pos_embed") -> int:
    """Patches a side, by a position table (1, 1 + n * n, D).

    Raises:
        CheckpointError: As ``shape_of``; or the rows are not those of a square grid and a class.
    """
    first, rows, _ = shape_of(tensors, name, 3)
    side = math.isqrt(rows - 1)
    if first != 1 or side * side != rows - 1 or side == 0:
        raise CheckpointError(f"the position table {name} has {first} x {rows} rows: no square grid and a class")
    return side


def joined(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Tensors one below the other.

    Raises:
        CheckpointError: Their shapes differ in more than the first dimension.
    """
    shapes = [list(tensors[name].shape) for name in names]
    if len(names) > 1 and any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        raise CheckpointError(
            f"{', '.join(names)} belong one below the other, but have the shapes {', '.join(map(str, shapes))}; "
            "nothing was loaded"
        )
    return tensors[names[0]] if len(names) == 1 else torch.cat([tensors[name] for name in names])


def vit_arguments(tensors: Mapping[str, Tensor], heads: int | None) -> dict[str, Any]:
    """Sizes of a plain ViT, by its tensors in timm's names.

    Args:
        tensors: By name.
        heads: As given; by the width where not.

    Raises:
        CheckpointError: A tensor that tells of them is absent or mis-shaped, or the heads must be given.
    """
    width, _, patch, _ = shape_of(tensors, "patch_embed.proj.weight", 4)
    layers = [name.split(".")[1] for name in tensors if name.startswith("blocks.")]
    return {
        "patch_size": patch,
        "embed_dim": width,
        "depth": 1 + max((int(layer) for layer in layers if layer.isdecimal()), default=-1),
        "num_heads": count_heads(width, heads),
        "mlp_ratio": shape_of(tensors, "blocks.0.mlp.fc1.bias", 1)[0] / width,
    }


def count_heads(width: int, given: int | None) -> int:
    """Attention heads at a width, unless given.

    Raises:
        CheckpointError: They must be given, or do not divide the width.
    """
    heads = given or HEADS.get(width)
    if heads is None:
        raise CheckpointError(f"no key tells the number of attention heads at a width of {width}; give `heads`")
    if width % heads:
        raise CheckpointError(f"a width of {width} cannot be shared by {heads} heads; give another `heads`")
    return heads

"""Weight files of Mix-ViT's hybrid model (R50 + part grouping + transformer)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.checkpoints.official import Asked, Official
from tavt_kit.checkpoints.official_vit import official_names
from tavt_kit.checkpoints.shapes import count_heads, joined, shape_of
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError
from tavt_kit.models.backbones.registry import FGVC_EVALUATION

_RESNET = "inter_arch."
_VIT = "vit."
_TRAINING_ONLY = ("vit.transformer.encoder.mask_transformer.", "vit.mask_head.", "vit.mask_cls_head.")


def read_mixvit_hybrid(tensors: Mapping[str, Tensor], asked: Asked) -> Official | None:
    """A file of the family, or ``None`` if it is of another.

    Raises:
        CheckpointError: Tensors are missing or have no place, or the heads must be given.
    """
    if f"{_RESNET}root.conv.weight" not in tensors:
        return None
    left_out = tuple(name for name in tensors if name.startswith(_TRAINING_ONLY))
    used = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    layers = [name.split(".")[4] for name in used if name.startswith("vit.transformer.encoder.layer.")]
    depth = 1 + max(map(int, layers), default=-1)
    names = hybrid_names(used, depth)
    known = {theirs for parts in names.values() for theirs in parts}
    missing, unexpected = sorted(known - set(used)), sorted(set(used) - known)
    if missing or unexpected or depth < 1:
        raise CheckpointError(
            f"the file is of Mix-ViT's hybrid model, but lacks {', '.join(missing) or 'nothing'} and adds "
            f"{', '.join(unexpected) or 'nothing'}; nothing was loaded"
        )
    found = {ours: joined(used, theirs) for ours, theirs in names.items()}
    shape_of(found, "proj.weight", 4)
    found["proj.weight"] = found["proj.weight"].flatten(1)  # a 1x1 convolution over the parts
    size = asked.image_size or 448
    preprocessing = Preprocessing.from_config(FGVC_EVALUATION, size)
    arguments = _arguments(found, depth, size, asked)
    return Official("mixvit", "mixvit_hybrid_r50", arguments, found, "Mix-ViT (hybrid)", preprocessing, (), left_out)


def from_google(tensors: Mapping[str, Tensor], parts: int) -> dict[str, Tensor]:
    """The transformer of one of Google's files, in timm's names, as that of the hybrid model.

    The position grid is resized to (parts, 1), bilinear without aligned corners; the head starts at zero.
    """
    found = dict(tensors)
    side = math.isqrt(found["pos_embed"].shape[1] - 1)
    grid = found["pos_embed"][:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(parts, 1), mode="bilinear", align_corners=False)
    found["pos_embed"] = torch.cat([found["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    for kind in ("weight", "bias"):
        found[f"proj.{kind}"] = found.pop(f"patch_embed.proj.{kind}")
        found[f"head.{kind}"] = torch.zeros_like(found[f"head.{kind}"])
    found["proj.weight"] = found["proj.weight"].flatten(1)
    return found


def hybrid_names(used: Mapping[str, Tensor], depth: int) -> dict[str, tuple[str, ...]]:
    """Our names -> the official ones whose tensors, one below the other, each holds."""
    names = {ours: tuple(f"{_VIT}{name}" for name in theirs) for ours, theirs in official_names(depth).items()}
    for kind in ("weight", "bias"):
        names[f"proj.{kind}"] = names.pop(f"patch_embed.proj.{kind}")
    for theirs in used:
        if theirs.startswith("grouping."):
            names[theirs] = (theirs,)
        elif theirs.startswith(f"{_RESNET}root."):
            names["resnet." + theirs.removeprefix(f"{_RESNET}root.")] = (theirs,)
        elif theirs.startswith(f"{_RESNET}body."):
            _, _, block, unit, rest = theirs.split(".", 4)
            stage, place = int(block.removeprefix("block")) - 1, int(unit.removeprefix("unit")) - 1
            names[f"resnet.stages.{stage}.{place}.{rest}"] = (theirs,)
    return names


def _arguments(found: Mapping[str, Tensor], depth: int, size: int, asked: Asked) -> dict[str, Any]:
    (width,) = shape_of(found, "proj.bias", 1)
    units = {tuple(map(int, name.split(".")[2:4])) for name in found if name.startswith("resnet.stages.")}
    blocks = [sum(stage == number for stage, _ in units) for number in range(1 + max(stage for stage, _ in units))]
    return {
        "num_classes": shape_of(found, "head.bias", 1)[0],
        "img_size": [size, size],
        "num_parts": shape_of(found, "grouping.weight", 4)[0],
        "embed_dim": width,
        "depth": depth,
        "num_heads": count_heads(width, asked.heads),
        "mlp_dim": shape_of(found, "blocks.0.mlp.fc1.bias", 1)[0],
        "resnet_blocks": blocks,
        "resnet_width": shape_of(found, "resnet.conv.weight", 4)[0],
    }

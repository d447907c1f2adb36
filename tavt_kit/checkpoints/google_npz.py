"""Google's ``.npz`` Vision Transformers (the ImageNet-21k files that all the systems start from) in timm's names.

Source of the names: ``google-research/vision_transformer`` (Flax); kernels lie [in, out] there, attention's with the
heads apart.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.checkpoints.official import Asked, Official, resize_positions
from tavt_kit.checkpoints.official_vit import vit_model
from tavt_kit.checkpoints.shapes import grid_side, joined, shape_of, vit_arguments
from tavt_kit.errors import CheckpointError, DataError

_BLOCK = "Transformer/encoderblock_"
_ATTENTION = "MultiHeadDotProductAttention_1"
_IGNORED = ("pre_logits/kernel", "pre_logits/bias")
"""A layer of the ImageNet-21k classifier that no descendant uses."""

_UNIT = re.compile(r"block(\d+)/unit(\d+)/")
_RESNET = {"conv_proj": "downsample.conv", "gn_proj": "downsample.norm"} | {
    f"{theirs}{number}": f"{ours}{number}"
    for theirs, ours in (("conv", "conv"), ("gn", "norm"))
    for number in (1, 2, 3)
}
"""Parts of a unit of the ResNet -> timm's names."""

_HYBRIDS = {
    (): ("vit_tiny_r_s16_p8_224", 32),
    (2, 2, 2, 2): ("vit_small_r26_s32_224", 32),
    (3, 4, 9): ("vit_base_r50_s16_224", 16),
    (3, 4, 6, 3): ("vit_large_r50_s32_224", 32),
}
"""Units of the ResNet's blocks -> timm's name, and pixels from patch to patch."""


def read_npz(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file, without running anything in it.

    Raises:
        CheckpointError: It is missing, damaged, or holds Python objects or values that are not finite.
    """
    if not file.is_file():
        raise CheckpointError(f"the weight file {file} does not exist")
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file} is damaged or no .npz file; fetch it anew")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        AttributeError,
        NotImplementedError,
    ) as error:
        reason = "holds Python objects" if "allow_pickle" in str(error) else "is damaged or no .npz file"
        raise CheckpointError(f"{file} {reason}; fetch it anew") from None
    broken = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if broken:
        raise CheckpointError(f"{file} holds values that are not finite, in {broken[0]}; fetch it anew")
    return arrays


def read_google(arrays: Mapping[str, NDArray[Any]], asked: Asked) -> Official | None:
    """A file of Google's, or ``None`` if its names are others.

    Raises:
        CheckpointError: An array is missing or has no place, or a hybrid is asked for as another family.
        DataError: An image size that the patches do not allow.
    """
    if "Transformer/posembed_input/pos_embedding" not in arrays:
        return None
    if asked.heads is None:
        asked = replace(asked, heads=_heads(arrays))
    if "conv_root/kernel" in arrays:
        return _hybrid(arrays, asked)
    return vit_model(google_to_timm(arrays), asked.family or "vit", "Google's Vision Transformer", asked, recipe=False)


def _heads(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Attention heads; here a shape tells them."""
    kernel = arrays.get(f"{_BLOCK}0/{_ATTENTION}/query/kernel")
    if kernel is None or kernel.ndim != 3 or 0 in kernel.shape:
        raise CheckpointError(
            f"the file looks like one of Google's ViTs, but lacks {_BLOCK}0/{_ATTENTION}/query/kernel of three "
            "dimensions; nothing was loaded"
        )
    return int(kernel.shape[1])


def _hybrid(arrays: Mapping[str, NDArray[Any]], asked: Asked) -> Official:
    """A ViT over a ResNet, as timm's; FFVT and TransFG never published one of theirs."""
    if asked.family is not None:
        raise CheckpointError(
            f"a ViT over a ResNet is read as timm has it, not as {asked.family}, whose stem computes otherwise; leave "
            "`family` out, or take a file without a ResNet such as ViT-B_16.npz"
        )
    units = _units(arrays)
    if units not in _HYBRIDS:
        said = "-".join(map(str, units)) or "no"
        raise CheckpointError(
            f"the file has a ResNet of {said} units before the ViT, but timm has those of "
            f"{', '.join('-'.join(map(str, known)) or 'no' for known in _HYBRIDS)} units"
        )
    name, stride = _HYBRIDS[units]
    tensors = google_to_timm(arrays)
    side = grid_side(tensors)
    size = asked.image_size or side * stride
    if size % stride:
        raise DataError(f"this hybrid needs an image size that is a multiple of {stride}, got {size}")
    shape = vit_arguments(tensors, asked.heads)
    del shape["patch_size"]  # the stride of the ResNet and the patches on its map, which the name says
    arguments = {"num_classes": shape_of(tensors, "head.bias", 1)[0], "img_size": [size, size], **shape}
    tensors["pos_embed"] = resize_positions(tensors["pos_embed"], size // stride, asked.positions)
    return Official("hybrid", name, arguments, tensors, "Google's hybrid of ResNet and Vision Transformer")


def _units(arrays: Mapping[str, Any]) -> tuple[int, ...]:
    """Units of each block of the ResNet."""
    found = {(int(match[1]), int(match[2])) for name in arrays if (match := _UNIT.match(name))}
    return tuple(sum(block == own for own, _ in found) for block in sorted({block for block, _ in found}))


def google_to_timm(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Every array under timm's name, in torch's layout.

    Raises:
        CheckpointError: An array is missing or has no place; all of them are named.
    """
    left, taken = dict(arrays), dict[str, Tensor]()

    def take(name: str, rank: int) -> NDArray[Any]:
        if name not in left:
            raise CheckpointError(f"the file looks like one of Google's ViTs, but lacks {name}; nothing was loaded")
        shape = list(left[name].shape)
        if len(shape) != rank or 0 in shape:
            raise CheckpointError(f"{name} must have {rank} filled dimensions, but has the shape {shape}")
        return left.pop(name).astype(np.float32)

    def keep(ours: str, array: NDArray[Any]) -> None:
        taken[ours] = torch.from_numpy(np.ascontiguousarray(array))

    def linear(ours: str, theirs: str) -> None:
        keep(f"{ours}.weight", take(f"{theirs}/kernel", 2).T)
        keep(f"{ours}.bias", take(f"{theirs}/bias", 1))

    def norm(ours: str, theirs: str, rank: int = 1) -> None:
        keep(f"{ours}.weight", take(f"{theirs}/scale", rank).reshape(-1))
        keep(f"{ours}.bias", take(f"{theirs}/bias", rank).reshape(-1))

    def convolution(ours: str, theirs: str) -> None:
        keep(f"{ours}.weight", take(f"{theirs}/kernel", 4).transpose(3, 2, 0, 1))

    keep("cls_token", take("cls", 3))
    keep("pos_embed", take("Transformer/posembed_input/pos_embedding", 3))
    convolution("patch_embed.proj", "embedding")
    keep("patch_embed.proj.bias", take("embedding/bias", 1))
    for ours, theirs in _resnet_names(arrays).items():
        if "/gn" in f"/{theirs}":
            norm(ours, theirs, 4)
        else:
            convolution(ours, theirs)
    for layer in range(_count_layers(arrays)):
        block, attention = f"{_BLOCK}{layer}", f"{_BLOCK}{layer}/{_ATTENTION}"
        parts = [f"{attention}/{name}" for name in ("query", "key", "value")]
        kernels = {name: take(f"{name}/kernel", 3) for name in parts}
        biases = {name: torch.from_numpy(take(f"{name}/bias", 2).reshape(-1)) for name in parts}
        rows = {name: torch.from_numpy(kernel.reshape(len(kernel), -1).T) for name, kernel in kernels.items()}
        taken[f"blocks.{layer}.attn.qkv.weight"] = joined(rows, parts)
        taken[f"blocks.{layer}.attn.qkv.bias"] = joined(biases, parts)
        out = take(f"{attention}/out/kernel", 3)
        keep(f"blocks.{layer}.attn.proj.weight", out.reshape(-1, out.shape[-1]).T)
        keep(f"blocks.{layer}.attn.proj.bias", take(f"{attention}/out/bias", 1))
        norm(f"blocks.{layer}.norm1", f"{block}/LayerNorm_0")
        norm(f"blocks.{layer}.norm2", f"{block}/LayerNorm_2")
        linear(f"blocks.{layer}.mlp.fc1", f"{block}/MlpBlock_3/Dense_0")
        linear(f"blocks.{layer}.mlp.fc2", f"{block}/MlpBlock_3/Dense_1")
    norm("norm", "Transformer/encoder_norm")
    linear("head", "head")
    if unexpected := sorted(set(left) - set(_IGNORED)):
        raise CheckpointError(f"the file looks like one of Google's ViTs, but adds {', '.join(unexpected)}")
    return taken


def _resnet_names(arrays: Mapping[str, Any]) -> dict[str, str]:
    """timm's ResNetV2, whose stages count from 0 -> Google's names; without units it is its stem alone."""
    if "conv_root/kernel" not in arrays:
        return {}
    units = {match[0]: match for name in arrays if (match := _UNIT.match(name))}
    inside = "patch_embed.backbone" + (".stem" if units else "")
    names = {f"{inside}.conv": "conv_root", f"{inside}.norm": "gn_root"}
    for unit, match in units.items():
        ours = f"patch_embed.backbone.stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}"
        parts = {name.removeprefix(unit).partition("/")[0] for name in arrays if name.startswith(unit)}
        names |= {f"{ours}.{_RESNET[part]}": unit + part for part in sorted(parts & set(_RESNET))}
    return names


def _count_layers(arrays: Mapping[str, Any]) -> int:
    found = {name.split("/")[1].removeprefix("encoderblock_") for name in arrays if name.startswith(_BLOCK)}
    return 1 + max((int(index) for index in found if index.isdecimal()), default=-1)

"""Google's ``.npz`` Vision Transformers (the ImageNet-21k files that all the systems start from) in timm's names.

Source of the names: ``google-research/vision_transformer`` (Flax); kernels lie [in, out] there, attention's with the
heads apart.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.errors import CheckpointError

__all__ = ["google_heads", "google_to_timm", "is_google", "read_npz"]

_BLOCK = "Transformer/encoderblock_"
_ATTENTION = "MultiHeadDotProductAttention_1"
_IGNORED = ("pre_logits/kernel", "pre_logits/bias")
"""A layer of the ImageNet-21k classifier that no descendant uses."""


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


def is_google(arrays: Mapping[str, Any]) -> bool:
    """Whether the names are those of Google's plain ViT."""
    return "Transformer/posembed_input/pos_embedding" in arrays and "conv_root/kernel" not in arrays


def google_heads(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Attention heads; here a shape tells them."""
    return int(arrays[f"{_BLOCK}0/{_ATTENTION}/query/kernel"].shape[1])


def google_to_timm(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Every array under timm's name, in torch's layout.

    Raises:
        CheckpointError: An array is missing or has no place; all of them are named.
    """
    left, taken = dict(arrays), dict[str, Tensor]()

    def take(name: str) -> NDArray[Any]:
        if name not in left:
            raise CheckpointError(f"the file looks like one of Google's ViTs, but lacks {name}; nothing was loaded")
        return left.pop(name).astype(np.float32)

    def linear(ours: str, theirs: str) -> None:
        taken[f"{ours}.weight"] = torch.from_numpy(take(f"{theirs}/kernel").T.copy())
        taken[f"{ours}.bias"] = torch.from_numpy(take(f"{theirs}/bias"))

    def norm(ours: str, theirs: str) -> None:
        taken[f"{ours}.weight"] = torch.from_numpy(take(f"{theirs}/scale"))
        taken[f"{ours}.bias"] = torch.from_numpy(take(f"{theirs}/bias"))

    taken["cls_token"] = torch.from_numpy(take("cls"))
    taken["pos_embed"] = torch.from_numpy(take("Transformer/posembed_input/pos_embedding"))
    taken["patch_embed.proj.weight"] = torch.from_numpy(take("embedding/kernel").transpose(3, 2, 0, 1).copy())
    taken["patch_embed.proj.bias"] = torch.from_numpy(take("embedding/bias"))
    for layer in range(_count_layers(arrays)):
        block, attention = f"{_BLOCK}{layer}", f"{_BLOCK}{layer}/{_ATTENTION}"
        names = ("query", "key", "value")
        width = arrays["cls"].shape[-1]
        kernels = [take(f"{attention}/{name}/kernel").reshape(width, -1).T for name in names]
        taken[f"blocks.{layer}.attn.qkv.weight"] = torch.from_numpy(np.concatenate(kernels))
        biases = [take(f"{attention}/{name}/bias").reshape(-1) for name in names]
        taken[f"blocks.{layer}.attn.qkv.bias"] = torch.from_numpy(np.concatenate(biases))
        out = take(f"{attention}/out/kernel")
        taken[f"blocks.{layer}.attn.proj.weight"] = torch.from_numpy(out.reshape(-1, width).T.copy())
        taken[f"blocks.{layer}.attn.proj.bias"] = torch.from_numpy(take(f"{attention}/out/bias"))
        norm(f"blocks.{layer}.norm1", f"{block}/LayerNorm_0")
        norm(f"blocks.{layer}.norm2", f"{block}/LayerNorm_2")
        linear(f"blocks.{layer}.mlp.fc1", f"{block}/MlpBlock_3/Dense_0")
        linear(f"blocks.{layer}.mlp.fc2", f"{block}/MlpBlock_3/Dense_1")
    norm("norm", "Transformer/encoder_norm")
    linear("head", "head")
    if unexpected := sorted(set(left) - set(_IGNORED)):
        raise CheckpointError(f"the file looks like one of Google's ViTs, but adds {', '.join(unexpected)}")
    return taken


def _count_layers(arrays: Mapping[str, Any]) -> int:
    found = {name.split("/")[1].removeprefix("encoderblock_") for name in arrays if name.startswith(_BLOCK)}
    return 1 + max((int(index) for index in found if index.isdecimal()), default=-1)

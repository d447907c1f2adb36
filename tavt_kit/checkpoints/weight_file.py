"""Reading a weight file without running anything in it."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tavt_kit.errors import CheckpointError

_TORCH_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".tar"})
_WRAPPERS = ("state_dict_ema", "state_dict", "model", "model_state_dict")
"""Names under which training scripts keep the weights beside the optimiser's state; averaged ones come first, as in
timm's validation script."""

_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
_STARTS = ("module.", "model.", "_orig_mod.")


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What a weight file says.

    Args:
        tensors: By name, on the CPU.
        architecture: The model that timm's training script writes down as ``arch`` in its checkpoints, if it did.
        averaged: Whether ``tensors`` are averaged weights; the file has those of the last step too.
    """

    tensors: dict[str, Tensor]
    architecture: str | None = None
    averaged: bool = False


def sha256_tensors(tensors: Mapping[str, Tensor], *, shapes: bool = True) -> str:
    """The SHA-256 of tensors by name, in hexadecimal: the same weights in another file are the same.

    Args:
        tensors: State of a model.
        shapes: Whether kinds and shapes count too; the ``start_sha256`` of training runs is without them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode() if shapes else name.encode())
        if array.numel():  # what is empty has no bytes to view
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of ``read_weight_file``.

    Raises:
        CheckpointError: As there.
    """
    return read_weight_file(file).tensors


def read_weight_file(file: Path) -> WeightFile:
    """A ``.safetensors`` file, or a torch file that holds nothing but tensors and plain values.

    Of a checkpoint with averaged weights (``state_dict_ema``) these are read.

    What training loops put in front of every name is taken off: ``module.`` (DataParallel), ``model.`` (Lightning) and
    ``_orig_mod.`` (torch.compile), in any order.

    Raises:
        CheckpointError: The file is missing, truncated, of another kind, holds Python objects (which would
            run code when read), no tensors, or values that are not finite.
    """
    file = Path(file)
    if not file.is_file():
        raise CheckpointError(f"the weight file {file} does not exist")
    if file.suffix == ".safetensors":
        read = WeightFile(_read_safetensors(file))
    elif file.suffix in _TORCH_SUFFIXES:
        read = _read_torch(file)
    else:
        raise CheckpointError(
            f"weights are read from .safetensors files or from {', '.join(sorted(_TORCH_SUFFIXES))} files of "
            f"torch, but {file.name} is neither"
        )
    tensors = read.tensors
    _check(file, tensors)
    while start := next((start for start in _STARTS if all(name.startswith(start) for name in tensors)), None):
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items()}
    return replace(read, tensors=tensors)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is damaged or truncated ({_first_line(error)})") from None


def _read_torch(file: Path) -> WeightFile:
    content = _load_torch(file)
    arch = content.get("arch") if isinstance(content, Mapping) else None
    averaged = isinstance(content, Mapping) and isinstance(content.get(_WRAPPERS[0]), Mapping)
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} must hold tensors by name, but holds a {type(content).__name__}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return WeightFile(tensors, arch if isinstance(arch, str) else None, averaged)


def _load_torch(file: Path) -> Any:
    try:
        # timm's checkpoints hold the command line beside the weights: plain values in a Namespace, which runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file} holds Python objects, not only tensors, and reading them would run code from the file; "
            "where you trust it, load it with torch yourself and save its state_dict as .safetensors"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is damaged or truncated ({_first_line(error)})") from None


def _check(file: Path, tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors")
    if unfit := [f"{name} is {kind}" for name, tensor in tensors.items() if (kind := _unfit(tensor))]:
        raise CheckpointError(
            f"{file} must hold weights as dense floating-point numbers of 16 to 64 bits, but {unfit[0]}; convert "
            f"{'it' if len(unfit) == 1 else f'these {len(unfit)} tensors'} with torch first"
        )
    # As float32, which every model here computes in.
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.float()).all())]
    if broken:
        raise CheckpointError(
            f"{file} holds values that are not finite, in {len(broken)} tensors such as {broken[0]}; "
            "its training diverged: take an earlier checkpoint"
        )


def _unfit(tensor: Tensor) -> str:
    """Why a tensor is no weight that could be loaded; nothing where it is. Whole numbers index tables."""
    if tensor.is_meta:
        return "without values (meta)"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
    return "" if tensor.dtype in _KINDS else str(tensor.dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__

"""Weights on the disk: files read without running anything in them, and a run's model with its card beside it."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from tavt_kit.checkpoints.architecture import create, fit
from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE, ModelCard, read_card, write_card
from tavt_kit.core.records import atomic_path, make_folder, sha256_file
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, RecordError, first_line
from tavt_kit.models.wrap import AdaptiveViT, wrap

_TORCH_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".tar"})
_WRAPPERS = ("state_dict_ema", "state_dict", "model", "model_state_dict")
"""Names under which training scripts keep the weights beside the optimiser's state; averaged ones come first, as in
timm's validation script."""

_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool)
_STARTS = ("module.", "model.", "_orig_mod.")


@dataclass(frozen=True, slots=True)
class WeightFile:
    """What a weight file says: tensors by name, on the CPU; the ``arch`` that timm's training script writes; whether
    they are averaged weights.
    """

    tensors: dict[str, Tensor]
    architecture: str | None = None
    averaged: bool = False


def sha256_tensors(tensors: Mapping[str, Tensor], *, shapes: bool = True) -> str:
    """The SHA-256 of tensors by name, in hexadecimal: the same weights in another file are the same.

    Kinds and shapes count too, unless that is not wanted, as for the ``start_sha256`` of training runs.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode() if shapes else name.encode())
        if array.numel():  # what is empty has no bytes to view
            digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_weight_file(file: Path) -> WeightFile:
    """A ``.safetensors`` file, or a torch file that holds nothing but tensors and plain values.

    Of a checkpoint with averaged weights (``state_dict_ema``) these are read. What training loops put in front of
    every name is taken off: ``module.`` (DataParallel), ``model.`` (Lightning), ``_orig_mod.`` (torch.compile).

    Raises:
        CheckpointError: The file is missing, truncated, of another kind, holds Python objects (which would
            run code when read), no tensors, or values that are not finite.
    """
    file = Path(file)
    if not file.is_file():
        raise CheckpointError(f"the weight file {file} does not exist")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            read = WeightFile(load_file(file))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{file} is damaged or truncated ({first_line(error)})") from None
    elif file.suffix in _TORCH_SUFFIXES:
        read = _read_torch(file)
    else:
        raise CheckpointError(
            f"weights are read from .safetensors files or from {', '.join(sorted(_TORCH_SUFFIXES))} files of "
            f"torch, but {file.name} is neither"
        )
    tensors = read.tensors
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
    while start := next((start for start in _STARTS if all(name.startswith(start) for name in tensors)), None):
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items()}
    return replace(read, tensors=tensors)


DAMAGED = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, struct.error,
)  # fmt: skip
"""What torch's reader raises of damaged bytes, but for what pickle has of its own."""


def _read_torch(file: Path) -> WeightFile:
    try:
        # timm's checkpoints hold the command line beside the weights: plain values in a Namespace, which runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file} holds Python objects, not only tensors, and reading them would run code from the file; "
            "where you trust it, load it with torch yourself and save its state_dict as .safetensors"
        ) from None
    except DAMAGED as error:
        raise CheckpointError(f"{file} is damaged or truncated ({first_line(error)})") from None
    arch = content.get("arch") if isinstance(content, Mapping) else None
    averaged = isinstance(content, Mapping) and isinstance(content.get(_WRAPPERS[0]), Mapping)
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} must hold tensors by name, but holds a {type(content).__name__}")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return WeightFile(tensors, arch if isinstance(arch, str) else None, averaged)


def _unfit(tensor: Tensor) -> str:
    """Why a tensor is no weight that could be loaded; nothing where it is. Whole numbers index tables."""
    if tensor.is_meta:
        return "without values (meta)"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
    return "" if tensor.dtype in _KINDS else str(tensor.dtype).removeprefix("torch.")


def is_run(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a model in it, or that model's weight file."""
    return (_folder(Path(path)) / CARD_FILE).is_file()


def save_model(folder: str | Path, model: nn.Module, card: ModelCard) -> ModelCard:
    """Write the weights, of a wrapped or bare model, and the card; each file appears whole or not at all.

    Returns:
        The card as written: with its hash, and the score, pool and reduction of a wrapped model.

    Raises:
        CheckpointError: The card names another number of classes than the model has.
        OutputError: The folder cannot be written.
    """
    from safetensors.torch import save_file

    folder = make_folder(Path(folder))
    if isinstance(model, AdaptiveViT):
        card = replace(card, score=model.score, pool=model.pool, reduction=model.reduction)
        model = model.unwrap()
    classes = getattr(model, "num_classes", len(card.classes))
    if classes != len(card.classes):
        raise CheckpointError(f"the card names {len(card.classes)} classes, but the model has {classes}")
    # safetensors refuses views and shared memory.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
        card = replace(card, weights_sha256=sha256_file(temporary))
    write_card(folder, card)
    return card


def load_model(path: str | PathLike[str], *, image_size: Sequence[int] | int | None = None) -> AdaptiveViT:
    """Read what ``save_model`` wrote; needs no network.

    Args:
        path: The run folder, or the ``model.safetensors`` in it.
        image_size: Another input size than it was saved with; position tables are resized.

    Returns:
        The wrapped model in eval mode, on the CPU, at the schedule of its card if that has one; with its ``card``, and
        the ``folder`` by which later steps find the images and the split that it was made with.

    Raises:
        RecordError: There is no model card.
        CheckpointError: The weights are missing, damaged, not those of the card, or of another architecture.
        ScheduleError: The card's schedule does not fit the model, which another image size makes so.

    Example:
        >>> import tempfile
        >>> from tavt_kit.checkpoints import build
        >>> folder = tempfile.mkdtemp()
        >>> card = save_model(folder, *build("vit_tiny_patch16_224", weights="random", classes=["cat", "dog"]))
        >>> model = load_model(folder)
        >>> model.tokens, model.card.classes
        (197, ('cat', 'dog'))
    """
    card, tensors = read_run(path)
    if image_size is not None:
        preprocessing = Preprocessing.from_record(card.preprocessing).at(image_size)
        size = list(preprocessing.image_size)
        arguments = {**card.arguments, "img_size": size}
        card = replace(card, arguments=arguments, preprocessing=preprocessing.as_record())
    # Another image size may have a larger table of positions.
    most = 2 * sum(tensor.numel() for tensor in tensors.values()) + 10**7
    model = create(card.name, {"num_classes": len(card.classes), **card.arguments}, most=most)
    if fit(model, tensors, str(path)):
        raise CheckpointError(f"{path} has no head for its {len(card.classes)} classes; restore it from its run")
    adaptive = wrap(model, card.score, card.pool, card.reduction)
    adaptive.card, adaptive.folder = card, _folder(Path(path))
    if card.schedule is not None:
        adaptive.schedule = TokenSchedule(card.schedule)
    return adaptive


def read_run(path: str | PathLike[str]) -> tuple[ModelCard, dict[str, Tensor]]:
    """The card and the verified tensors of a run folder; raises as ``load_model``."""
    folder = _folder(Path(path))
    if not folder.is_dir():
        raise RecordError(f"{folder} is no run folder; give one with {WEIGHTS_FILE} and {CARD_FILE} in it")
    card = read_card(folder)
    file = folder / WEIGHTS_FILE
    tensors = read_weight_file(file).tensors
    if sha256_file(file) != card.weights_sha256:
        raise CheckpointError(
            f"{file} is not the one {CARD_FILE} describes (another SHA-256); restore both from one run"
        )
    return card, tensors


def _folder(path: Path) -> Path:
    return path.parent if path.name == WEIGHTS_FILE else path

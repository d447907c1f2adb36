"""A model on the disk: ``model.safetensors`` and, beside it, ``model.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from tavt_kit.checkpoints.architecture import create
from tavt_kit.checkpoints.fitting import fit
from tavt_kit.checkpoints.weight_file import read_tensors
from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE, ModelCard, read_card, write_card
from tavt_kit.core.records import atomic_path, make_folder, sha256_file
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import CheckpointError, RecordError
from tavt_kit.models.wrap import AdaptiveViT, wrap

if TYPE_CHECKING:
    from torch import Tensor


def is_run(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a model in it, or that model's weight file."""
    return (_folder(Path(path)) / CARD_FILE).is_file()


def save_model(folder: str | Path, model: nn.Module, card: ModelCard) -> ModelCard:
    """Write the weights and the card; each file appears whole or not at all.

    Args:
        folder: Made if it is not there.
        model: Wrapped or bare; both have the same names.
        card: Its score, pool and reduction are those of a wrapped model, whatever it says; its hash is filled in.

    Returns:
        The card as written.

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
    # contiguous().clone(): safetensors refuses views and shared memory.
    state = model.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
        card = replace(card, weights_sha256=sha256_file(temporary))
    write_card(folder, card)
    return card


def load_model(path: str | PathLike[str], *, image_size: Sequence[int] | int | None = None) -> AdaptiveViT:
    """Read what ``save_model`` wrote; needs no network.

    Args:
        path: The run folder, as its path or as the result of ``train`` or ``search``; or the ``model.safetensors`` in
            it.
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
    model = create(card.name, {"num_classes": len(card.classes), **card.arguments})
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
    tensors = read_tensors(file)
    if sha256_file(file) != card.weights_sha256:
        raise CheckpointError(
            f"{file} is not the file that {CARD_FILE} describes (another SHA-256); restore both from one run"
        )
    return card, tensors


def _folder(path: Path) -> Path:
    return path.parent if path.name == WEIGHTS_FILE else path

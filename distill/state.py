"""The state of a training run between two steps, in one file that is always whole."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tavt_kit.errors import CheckpointError
from tavt_kit.records import atomic_path, make_folder

__all__ = ["STATE_FOLDER", "Saved", "has_state", "load_state", "remove_state", "save_state"]

STATE_FOLDER = "state"
_FILE = "training.pt"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Saved:
    """What ``load_state`` found.

    Args:
        step: Updates done.
        seconds: Spent on them.
    """

    step: int
    seconds: float


def save_state(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, *, step: int, seconds: float) -> None:
    """Write the state; a process killed at any moment leaves the old file or the new one.

    Of the random generators nothing is kept: every draw is a function of the seed and the step.

    Args:
        folder: The run's.
        model: All of its tensors are written, frozen ones too.
        optimiser: Momenta and counts.
        step: Updates done.
        seconds: Spent on them so far.

    Raises:
        OutputError: The folder cannot be written.
    """
    content = {
        "version": _VERSION,
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with atomic_path(make_folder(Path(folder) / STATE_FOLDER) / _FILE) as temporary:
        torch.save(content, temporary)


def load_state(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Saved | None:
    """Put a saved state into model and optimiser; None where there is none.

    Raises:
        CheckpointError: The file is damaged, or belongs to another model or optimiser.
    """
    file = Path(folder) / STATE_FOLDER / _FILE
    if not file.exists():
        return None
    device = next(model.parameters()).device
    try:
        content: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        if content["version"] != _VERSION:
            raise ValueError(f"it has version {content['version']}, this program reads {_VERSION}")
        model.load_state_dict(content["model"], strict=True)
        optimiser.load_state_dict(content["optimiser"])
        return Saved(int(content["step"]), float(content["seconds"]))
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{file} cannot be continued ({reason}); start again with --fresh") from None


def has_state(folder: Path) -> bool:
    """Whether there is a saved state."""
    return (Path(folder) / STATE_FOLDER / _FILE).exists()


def remove_state(folder: Path) -> None:
    """A finished run has no use for it, and it is larger than the model."""
    place = Path(folder) / STATE_FOLDER
    (place / _FILE).unlink(missing_ok=True)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()

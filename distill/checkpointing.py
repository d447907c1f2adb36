"""The states of a training run between two updates: each in one file that is always whole, the newest ones kept."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tavt_kit.core.records import atomic_path, make_folder
from tavt_kit.errors import CheckpointError

STATE_FOLDER = "state"
_VERSION = 2
_FRAGMENTS = (".*step-*.pt", ".*best-*.pt")
"""What a process that was killed while writing leaves behind."""


def save_state(folder: Path, content: Mapping[str, Any], *, keep: int = 1) -> None:
    """Write a state; a process killed at any moment leaves the older ones, or this one too.

    Args:
        folder: The run's.
        content: ``step``, the updates that are done, and whatever else continues the run: made of tensors, numbers,
            texts, lists, tuples and dictionaries only, so that no code is run when it is read.
        keep: Newest states that stay.

    Raises:
        OutputError: The folder cannot be written.
    """
    make_folder(Path(folder) / STATE_FOLDER)
    with atomic_path(state_file(folder, content["step"])) as temporary:
        torch.save({"version": _VERSION, **content}, temporary)
    for old in _states(folder)[:-keep]:
        old.unlink(missing_ok=True)


def state_file(folder: Path, step: int) -> Path:
    """Where the state after update ``step`` lies."""
    return Path(folder) / STATE_FOLDER / f"step-{step:08}.pt"


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state, its tensors on the CPU; None where there is none.

    Raises:
        CheckpointError: The file is damaged, or of another version.
    """
    for pattern in _FRAGMENTS:
        for file in (Path(folder) / STATE_FOLDER).glob(pattern):
            file.unlink(missing_ok=True)
    states = _states(folder)
    if not states:
        return None
    with readable(states[-1], *states[-2:-1]):
        content: dict[str, Any] = torch.load(states[-1], map_location="cpu", weights_only=True)
        if content["version"] != _VERSION:
            raise ValueError(f"it has version {content['version']}, this program reads {_VERSION}")
    return content


@contextmanager
def readable(file: Path, *older: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a state into one sentence, which names an older one if there is one.

    Raises:
        CheckpointError: Instead.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        instead = f"delete it to continue from {older[0].name}, or " if older else ""
        raise CheckpointError(f"{file} cannot be continued ({reason}); {instead}start again with `fresh`") from None


def save_best(folder: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Keep the best weights so far, before the state that names them by their ``step`` is written."""
    with atomic_path(_best(make_folder(Path(folder) / STATE_FOLDER), step)) as temporary:
        torch.save(dict(weights), temporary)


def load_best(folder: Path, step: int) -> dict[str, Tensor]:
    """The weights kept at ``step``, on the CPU.

    Raises:
        CheckpointError: They are missing or damaged.
    """
    file = _best(Path(folder) / STATE_FOLDER, step)
    with readable(file):
        found: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return found


def drop_other_best(folder: Path, step: int) -> None:
    """Remove what was best before; called once the state that names ``step`` is on the disk."""
    place = Path(folder) / STATE_FOLDER
    for file in place.glob("best-*.pt"):
        if file != _best(place, step):
            file.unlink(missing_ok=True)


def _best(place: Path, step: int) -> Path:
    return place / f"best-{step:08}.pt"


def _states(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted((Path(folder) / STATE_FOLDER).glob("step-*.pt"))


def has_state(folder: Path) -> bool:
    """Whether there is a saved state."""
    return bool(_states(folder))


def remove_state(folder: Path) -> None:
    """A finished run has no use for it, and it is larger than the model."""
    place = Path(folder) / STATE_FOLDER
    for pattern in ("step-*.pt", "best-*.pt", *_FRAGMENTS):
        for file in place.glob(pattern):
            file.unlink(missing_ok=True)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()


def random_state(device: torch.device) -> dict[str, Any]:
    """Of Python, numpy, torch and ``device``; made of numbers, tuples and tensors only."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": (version, torch.tensor(words), gauss),  # a tensor, because hundreds of numbers are pickled slowly
        "numpy": (name, torch.from_numpy(np.array(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """From ``random_state``; what another kind of device drew is left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)

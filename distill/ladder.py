"""The ladder before and after distillation, paired picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.accuracy import PairedDifference
from tavt_kit.distill.evaluate import Rung
from tavt_kit.distill.state import STATE_FOLDER
from tavt_kit.records import atomic_path, make_folder

__all__ = ["after_record", "forget_before", "keep_before", "ladder_record"]

_FILE = "ladder_before.npy"


def keep_before(folder: Path, rungs: Sequence[Rung]) -> None:
    """Remember which pictures were right (rungs, n), so that a resumed run can pair them."""
    with atomic_path(make_folder(Path(folder) / STATE_FOLDER) / _FILE) as temporary:
        np.save(temporary, np.stack([rung.right for rung in rungs]), allow_pickle=False)


def forget_before(folder: Path) -> None:
    """The run is done."""
    (Path(folder) / STATE_FOLDER / _FILE).unlink(missing_ok=True)


def ladder_record(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [
        {
            "name": rung.name,
            "schedule": list(rung.schedule.counts),
            "macs": rung.macs,
            "accuracy": rung.accuracy.as_record(),
        }
        for rung in rungs
    ]


def after_record(folder: Path, rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """As ``ladder_record``, each with the paired ``difference`` (after minus before)."""
    known: NDArray[np.bool_] = np.load(Path(folder) / STATE_FOLDER / _FILE, allow_pickle=False)
    entries = []
    for entry, old, rung in zip(ladder_record(rungs), known, rungs, strict=True):
        gained, lost = int((rung.right & ~old).sum()), int((old & ~rung.right).sum())
        entries.append({**entry, "difference": PairedDifference.of_counts(gained, lost, len(old)).as_record()})
    return entries

"""The ladder of schedules, and its accuracies before and after distillation, paired picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.records import atomic_path, make_folder
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.evaluate import LADDER, Rung
from tavt_kit.distill.state import STATE_FOLDER
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import MacsFormula
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["after_record", "forget_before", "keep_before", "ladder_of", "ladder_record"]

_FILE = "ladder_before.npy"
_FEWER = (3, 5, 10)
"""Times fewer multiply-adds than dense."""
_GRID = 1000
"""Ratios of the tapers are whole thousandths, so that their names and counts are the same everywhere."""


def ladder_of(model: AdaptiveViT) -> dict[str, TokenSchedule]:
    """A model's schedules by name, of ever fewer multiply-adds: ``LADDER``, and a third, a fifth and a tenth of dense.

    Each of the latter is the mildest taper with no more multiply-adds than its name says. Where a model cannot get so
    low, because of what no schedule saves (convolutions of ViTAE, a pyramid, a fusion), ``"fewest tokens"`` ends it.
    """
    ladder = {name: TokenSchedule.parse(name, model.layout) for name in LADDER}
    formula = MacsFormula.of(model)
    tapers = [TokenSchedule.taper(model.layout, ratio / _GRID) for ratio in range(_GRID)]
    macs = formula.macs_many(np.array([taper.counts for taper in tapers]))
    for times in _FEWER:
        enough = np.flatnonzero(macs * times <= macs[0])
        if not len(enough):
            ladder["fewest tokens"] = tapers[-1]
            break
        ladder[f"{times}x fewer"] = tapers[enough[0]]
    return dict(sorted(ladder.items(), key=lambda rung: -formula.macs(rung[1])))


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
        entries.append({**entry, "difference": paired(old, rung.right).as_record()})
    return entries

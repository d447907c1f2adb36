"""The sweep: accuracy at a fixed row of schedules, before and after distillation, paired image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_path, make_folder
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.datasets import ImageSplit
from tavt_kit.distill.processes import autocast
from tavt_kit.distill.run_folder import STATE_FOLDER
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import MacsFormula, count_macs
from tavt_kit.models.wrap import AdaptiveViT

LADDER = ("dense", "taper:0.1", "taper:0.2", "taper:0.3", "taper:0.4", "stages:0.3", "stages:0.5")
"""Before and after distillation, always these."""

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class SweepPoint:
    """One schedule's accuracy.

    Args:
        name: As given, ``"taper:0.2"``.
        schedule: What it means for this model.
        macs: Multiply-adds of one image.
        accuracy: With its interval.
        correct: (n,) which images are right, for pairing with another ladder on the same images.
    """

    name: str
    schedule: TokenSchedule
    macs: int
    accuracy: Accuracy
    correct: NDArray[np.bool_]


def evaluate_sweep(
    model: AdaptiveViT,
    images: ImageSplit,
    split: str,
    points: Sequence[str] | Mapping[str, TokenSchedule] = LADDER,
    *,
    precision: str = "f32",
    progress: Progress | None = None,
    what: str = "ladder",
) -> tuple[SweepPoint, ...]:
    """The accuracy of each schedule on the same images.

    Args:
        model: Wrapped.
        images: The split's.
        split: Its name.
        points: Schedules as text, or by name.
        precision: ``f32``, or ``bf16`` for autocast.
        progress: Watches.
        what: Name of the stage.

    Raises:
        MeasurementError: The logits are not finite.
    """
    progress = progress or Silent()
    progress.stage(what, len(points))
    named = (
        points if isinstance(points, Mapping) else {name: TokenSchedule.parse(name, model.layout) for name in points}
    )
    evaluate = Evaluator(model, images.pixels, images.labels, images.preprocessing, split=split, precision=precision)
    found = []
    for name, schedule in named.items():
        found.append(
            SweepPoint(name, schedule, count_macs(model, schedule), evaluate(schedule), evaluate.correct(schedule))
        )
        progress.advance(1)
    return tuple(found)


def features(
    model: AdaptiveViT, split: ImageSplit, *, precision: str = "f32", progress: Progress | None = None
) -> NDArray[np.float32]:
    """(n, D): what the head's last linear layer receives when nothing is dropped."""
    device = next(model.parameters()).device
    before, was_training = model.schedule, model.training
    model.eval()
    model.schedule = model.dense_schedule
    parts = []
    try:
        with torch.no_grad(), autocast(precision, device):  # inference_mode would convert weights anew for each batch
            for start in range(0, len(split), _BATCH):
                images = torch.from_numpy(split.inputs(split.pixels[start : start + _BATCH]))
                parts.append(model.forward_pooled(images.to(device)).float().cpu().numpy())
                if progress is not None:
                    progress.advance(len(parts[-1]))
    finally:
        model.schedule = before
        model.train(was_training)
    return np.concatenate(parts)


_FILE = "ladder_before.npy"
_FEWER = (3, 5, 10)
"""Times fewer multiply-adds than dense."""
_GRID = 1000
"""Ratios of the tapers are whole thousandths, so that their names and counts are the same everywhere."""


def schedule_sweep(model: AdaptiveViT) -> dict[str, TokenSchedule]:
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
    return dict(sorted(ladder.items(), key=lambda point: -formula.macs(point[1])))


def keep_before(folder: Path, points: Sequence[SweepPoint]) -> None:
    """Remember which images were right (points, n), so that a resumed run can pair them."""
    with atomic_path(make_folder(Path(folder) / STATE_FOLDER) / _FILE) as temporary:
        np.save(temporary, np.stack([point.correct for point in points]), allow_pickle=False)


def forget_before(folder: Path) -> None:
    """The run is done."""
    (Path(folder) / STATE_FOLDER / _FILE).unlink(missing_ok=True)


def ladder_record(points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    """JSON-ready."""
    return [
        {
            "name": point.name,
            "schedule": list(point.schedule.counts),
            "macs": point.macs,
            "accuracy": point.accuracy.as_record(),
        }
        for point in points
    ]


def after_record(folder: Path, points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    """As ``ladder_record``, each with the paired ``difference`` (after minus before)."""
    known: NDArray[np.bool_] = np.load(Path(folder) / STATE_FOLDER / _FILE, allow_pickle=False)
    entries = []
    for entry, old, point in zip(ladder_record(points), known, points, strict=True):
        entries.append({**entry, "difference": paired(old, point.correct).as_record()})
    return entries

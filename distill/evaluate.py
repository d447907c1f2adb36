"""The ladder: accuracy at a fixed row of schedules; and the features a head is fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.distill.pictures import Pictures
from tavt_kit.distill.precision import autocast
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.models.flops import count_macs
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["LADDER", "Rung", "climb", "features"]

LADDER = ("dense", "taper:0.1", "taper:0.2", "taper:0.3", "taper:0.4", "stages:0.3", "stages:0.5")
"""Before and after distillation, always these."""

_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """One schedule's accuracy.

    Args:
        name: As given, ``"taper:0.2"``.
        schedule: What it means for this model.
        macs: Multiply-adds of one picture.
        accuracy: With its interval.
        right: (n,) which pictures it has right, for pairing with another ladder on the same pictures.
    """

    name: str
    schedule: TokenSchedule
    macs: int
    accuracy: Accuracy
    right: NDArray[np.bool_]


def climb(
    model: AdaptiveViT,
    pictures: Pictures,
    split: str,
    rungs: Sequence[str] | Mapping[str, TokenSchedule] = LADDER,
    *,
    precision: str = "f32",
    progress: Progress | None = None,
    what: str = "ladder",
) -> tuple[Rung, ...]:
    """The accuracy of each schedule on the same pictures.

    Args:
        model: Wrapped.
        pictures: Of the split.
        split: Its name.
        rungs: Schedules as text, or by name.
        precision: ``f32``, or ``bf16`` for autocast.
        progress: Watches.
        what: Name of the stage.

    Raises:
        MeasurementError: The logits are not finite.
    """
    progress = progress or Silent()
    progress.stage(what, len(rungs))
    named = rungs if isinstance(rungs, Mapping) else {name: TokenSchedule.parse(name, model.layout) for name in rungs}
    evaluate = Evaluator(
        model, pictures.pixels, pictures.labels, pictures.preprocessing, split=split, precision=precision
    )
    found = []
    for name, schedule in named.items():
        found.append(Rung(name, schedule, count_macs(model, schedule), evaluate(schedule), evaluate.correct(schedule)))
        progress.advance(1)
    return tuple(found)


def features(
    model: AdaptiveViT, pictures: Pictures, *, precision: str = "f32", progress: Progress | None = None
) -> NDArray[np.float32]:
    """(n, D): what the head's last linear layer receives when nothing is dropped."""
    device = next(model.parameters()).device
    before, was_training = model.schedule, model.training
    model.eval()
    model.schedule = model.dense_schedule
    parts = []
    try:
        with torch.no_grad(), autocast(precision, device):  # inference_mode would convert weights anew for each batch
            for start in range(0, len(pictures), _BATCH):
                images = torch.from_numpy(pictures.inputs(pictures.pixels[start : start + _BATCH]))
                parts.append(model.forward_pooled(images.to(device)).float().cpu().numpy())
                if progress is not None:
                    progress.advance(len(parts[-1]))
    finally:
        model.schedule = before
        model.train(was_training)
    return np.concatenate(parts)

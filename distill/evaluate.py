"""The ladder: accuracy at a fixed row of schedules; and the features a head is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.accuracy import Accuracy
from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.distill.pictures import Pictures
from tavt_kit.distill.precision import autocast
from tavt_kit.distill.progress import Progress, Silent
from tavt_kit.evaluation import LeanEvaluator
from tavt_kit.macs import count_macs
from tavt_kit.schedule import TokenSchedule

__all__ = ["LADDER", "Rung", "climb", "features"]

LADDER = ("dense", "taper:0.1", "taper:0.2", "taper:0.3", "taper:0.4")
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
    names: Sequence[str] = LADDER,
    *,
    precision: str = "f32",
    progress: Progress | None = None,
    what: str = "ladder",
) -> tuple[Rung, ...]:
    """The accuracy of each schedule on the same pictures.

    Raises:
        MeasurementError: The logits are not finite.
    """
    progress = progress or Silent()
    progress.stage(what, len(names))
    evaluate = LeanEvaluator(
        model, pictures.pixels, pictures.labels, pictures.preprocessing, split=split, precision=precision
    )
    rungs = []
    for name in names:
        schedule = TokenSchedule.parse(name, tokens=model.tokens, layers=model.layers, prefix=model.prefix)
        rungs.append(Rung(name, schedule, count_macs(model, schedule), evaluate(schedule), evaluate.right(schedule)))
        progress.advance(1)
    return tuple(rungs)


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
        with torch.inference_mode(), autocast(precision, device):
            for start in range(0, len(pictures), _BATCH):
                images = torch.from_numpy(pictures.inputs(pictures.pixels[start : start + _BATCH]))
                parts.append(model.forward_pooled(images.to(device)).float().cpu().numpy())
                if progress is not None:
                    progress.advance(len(parts[-1]))
    finally:
        model.schedule = before
        model.train(was_training)
    return np.concatenate(parts)

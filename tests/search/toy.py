"""A made-up model to search: costs in closed form, accuracies with steps, ties and a little noise."""

from __future__ import annotations

import random

import numpy as np

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search import Costs, Space, one_by_one

SPACE = Space(TokenLayout(26, 5), minimum=2)
COSTS = Costs(
    macs=lambda schedule: 1000 * sum(n * n + 20 * n for n in schedule.counts),
    latency_ms=lambda schedule: 0.5 + sum(schedule.counts) / 10,
    target=TargetDevice("torch", "cpu", threads=1),
)
MACS_ONLY = Costs(macs=COSTS.macs)


def evaluate(schedule: TokenSchedule) -> Accuracy:
    """A made-up model: few images, so that ties and steps occur, and a little noise that depends on the counts."""
    worth = np.mean([1 - np.exp(-3 * count / 26) for count in schedule.counts])
    noise = random.Random(str(schedule)).uniform(-0.02, 0.02)
    return Accuracy.of_counts(round(200 * float(np.clip(0.9 * worth + noise, 0, 1))), 200, split="val")


answers = one_by_one(evaluate)

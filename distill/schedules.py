"""Learning rates: linear warm-up, then cosine, linear or no decay, then a cool-down at the last rate.

Equal to the schedulers of TAVT, FFVT and Mix-ViT (one file in all three). The official TAVT loop steps the scheduler
before the optimiser, so update ``k``, counted from 1, uses ``factor(k)``: the first update is not lost to a rate of 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tavt_kit.errors import TrainingError

DECAYS = ("cosine", "linear", "constant")


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate of every update.

    Args:
        base: Reached at the end of the warm-up.
        warmup: Updates of linear rise from ``start``.
        total: Updates in all.
        decay: After the warm-up: ``"cosine"`` and ``"linear"`` reach ``final``, ``"constant"`` stays at ``base``.
        start: Before the first update.
        final: At the last update, and in the cool-down.
        cooldown: Updates at the end of ``total`` that stay at the last rate.

    Raises:
        TrainingError: A rate that is not above 0, fewer than one update, a start or an end above the highest rate, or
            warm-up and cool-down longer than all updates.

    Example:
        >>> LearningRate(1.0, warmup=10, total=60).at(5)
        0.5
    """

    base: float
    warmup: int
    total: int
    decay: str = "cosine"
    start: float = 0.0
    final: float = 0.0
    cooldown: int = 0

    def __post_init__(self) -> None:
        if not (self.base > 0 and math.isfinite(self.base)):
            raise TrainingError(f"the learning rate must be above 0, got {self.base}")
        if not (0 <= self.start <= self.base and 0 <= self.final <= self.base):
            raise TrainingError(
                f"a learning rate starts and ends between 0 and its highest value, {self.base:g}, got `start_lr` "
                f"{self.start:g} and `final_lr` {self.final:g}; lower these or raise `lr`"
            )
        if self.total < 1:
            raise TrainingError(f"there must be at least one step, got {self.total}")
        if not 0 <= self.warmup <= self.total:
            raise TrainingError(
                f"the warm-up must last 0 to {self.total} steps (all of them), got `warmup` {self.warmup}"
            )
        if not 0 <= self.cooldown <= self.total - self.warmup:
            raise TrainingError(
                f"the cool-down must last 0 to {self.total - self.warmup} steps (those after the warm-up), "
                f"got {self.cooldown}"
            )
        if self.decay not in DECAYS:
            raise TrainingError(f"the decay must be one of {', '.join(DECAYS)}, got {self.decay!r}")

    def factor(self, update: int) -> float:
        """In [0, 1], for update 1 to ``total``; 0 gives the rate before the first."""
        if update < self.warmup:
            return update / max(1, self.warmup)
        progress = min(1.0, (update - self.warmup) / max(1, self.total - self.cooldown - self.warmup))
        if self.decay == "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        return max(0.0, 1.0 - progress) if self.decay == "linear" else 1.0

    def at(self, update: int) -> float:
        """The learning rate of an update."""
        end = self.start if update < self.warmup else self.final
        return end + (self.base - end) * self.factor(update)

"""Verdicts: does a value keep to a limit, when the value was counted, predicted or measured?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from tavt_kit.errors import BudgetError

if TYPE_CHECKING:
    from tavt_kit.core.budget import Limit
    from tavt_kit.core.measurement import Accuracy, Measurement, PairedDifference

__all__ = [
    "Verdict",
    "judge_accuracy",
    "judge_difference",
    "judge_interval",
    "judge_latency",
    "judge_macs",
    "judge_prediction",
    "latency_bounds",
    "quantile_bounds",
    "worst",
]


class Verdict(StrEnum):
    """Does a candidate keep to a limit? The interval of the measurement decides, not its middle."""

    PASS = "PASS"
    PREDICTED = "PREDICTED"  # met by a prediction only; a measurement turns it into PASS or FAIL
    INCONCLUSIVE = "INCONCLUSIVE"  # the interval crosses the line
    FAIL = "FAIL"


_ORDER = (Verdict.PASS, Verdict.PREDICTED, Verdict.INCONCLUSIVE, Verdict.FAIL)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of the verdicts; PASS of none, because then nothing was asked.

    Example:
        >>> str(worst([Verdict.PASS, Verdict.INCONCLUSIVE]))
        'INCONCLUSIVE'
    """
    return max(verdicts, key=_ORDER.index, default=Verdict.PASS)


def judge_macs(limit: Limit, macs: int) -> Verdict:
    """Multiply-adds are counted, not measured: PASS or FAIL."""
    return Verdict.PASS if limit.admits(macs) else Verdict.FAIL


def judge_prediction(limit: Limit, predicted: float) -> Verdict:
    """A predicted cost can miss a limit, but never pass it: PREDICTED or FAIL."""
    return Verdict.PREDICTED if limit.admits(predicted) else Verdict.FAIL


def judge_latency(limit: Limit, measurement: Measurement) -> Verdict:
    """Judge by the quantile's own interval, ``latency_bounds``.

    Args:
        limit: A latency limit with the statistic ``p50``, ``p90`` or ``p99``.
        measurement: The samples, in ms.
    """
    return judge_interval(limit, *latency_bounds(measurement, limit.statistic))


def latency_bounds(measurement: Measurement, statistic: str | None = "p90") -> tuple[float, float]:
    """Bounds of a quantile (ms), each right with 95 %: ``quantile_bounds``.

    The halves of an unsteady measurement must agree with each other: it often means that the machine changed on the
    way, and then the samples are not independent.
    """
    quantile = _quantile(statistic)
    low, high = quantile_bounds(measurement.samples, quantile)
    if not measurement.steady:
        half = len(measurement.samples) // 2
        parts = (measurement.samples[:half], measurement.samples[half:])
        bounds = [quantile_bounds(part, quantile) for part in parts]
        low, high = min(low, *(part[0] for part in bounds)), max(high, *(part[1] for part in bounds))
    return low, high


def judge_accuracy(limit: Limit, accuracy: Accuracy) -> Verdict:
    """Judge by the accuracy's own 95 % interval.

    Raises:
        BudgetError: The limit is on another metric than was measured.
    """
    if limit.name != accuracy.metric:
        raise BudgetError(f"the budget limits {limit.name}, but {accuracy.metric} was measured: {limit}")
    return judge_interval(limit, accuracy.low, accuracy.high)


def judge_difference(limit: Limit, candidate_minus_dense: PairedDifference) -> Verdict:
    """Judge ``drop`` by the paired 95 % interval of the loss against the dense model on the same images."""
    return judge_interval(limit, -candidate_minus_dense.high, -candidate_minus_dense.low)


def judge_interval(limit: Limit, low: float, high: float) -> Verdict:
    """Judge a value that is known to lie between two: INCONCLUSIVE where the limit does too."""
    if math.isnan(low) or math.isnan(high):
        return Verdict.INCONCLUSIVE
    inside = limit.admits(low), limit.admits(high)
    if all(inside):
        return Verdict.PASS
    return Verdict.INCONCLUSIVE if any(inside) else Verdict.FAIL


def quantile_bounds(samples: Sequence[float], quantile: float) -> tuple[float, float]:
    """Bounds of the true quantile, each right with 95 %: order statistics, no assumption on the distribution.

    Ties are harmless (the bounds only get safer). Too few samples for an upper bound give infinity: 29 are
    needed for the 0.9 quantile, 299 for the 0.99 quantile.

    Source: Hahn and Meeker, Statistical Intervals, 5.3 (exact binomial ranks).

    Example:
        >>> quantile_bounds([float(i) for i in range(1, 101)], 0.9)
        (85.0, 96.0)
    """
    ordered, n = sorted(samples), len(samples)
    low, high, below = 0.0, math.inf, 0.0
    # below = P(Bin(n, q) < rank) = P(the sample of this rank lies above the quantile)
    for rank, sample in enumerate(ordered, start=1):
        below += _binomial(n, rank - 1, quantile)
        if below <= 0.05:
            low = sample
        if below >= 0.95:
            high = sample
            break
    return low, high


def _binomial(n: int, k: int, p: float) -> float:
    """P(Bin(n, p) = k), through logarithms so that thousands of samples do not overflow."""
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))


def _quantile(statistic: str | None) -> float:
    if statistic not in ("p50", "p90", "p99"):
        raise BudgetError(f"only latency[p50], latency[p90] and latency[p99] can be judged, got {statistic!r}")
    return int(statistic[1:]) / 100

"""How much slower, or less accurate, one candidate is than another, with the doubt: what ``compare`` says.

Times are compared by the medians of their rounds, because noise outlasts a single run, and their intervals are those of
``block_bootstrap``.

* Two candidates of one record were measured in turn: their rounds are pairs, and what slows both cancels.
* Two records are of two moments: each is drawn by itself, and a machine that was slower on one of the two days looks
  like a slower candidate. A reference that is in both records takes that out: each candidate is divided by it, round
  by round, in its own record.

Accuracies of two records have no pairs either: the interval of their difference is Newcombe's hybrid of Wilson's
(Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17, 1998,
method 10), wider than a paired one of the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.block_bootstrap import LEAST_ROUNDS, median_interval
from tavt_kit.core.budget import Verdict
from tavt_kit.core.measurement import Measurement, round_ratios
from tavt_kit.errors import MeasurementError

__all__ = [
    "Estimate",
    "Summary",
    "accuracy_change",
    "judge_loss",
    "judge_slowdown",
    "paired_change",
    "relative_change",
    "summary_change",
    "unpaired_change",
]

_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A change with its 95 % interval: after over before for times, after minus before for accuracies.

    Args:
        value: The best guess.
        low: Lower end.
        high: Upper end.
        sure: Whether there was enough to make an interval of; if not, ``low`` and ``high`` are ``value``.
    """

    value: float
    low: float
    high: float
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Summary:
    """A median time (ms) and its 95 % interval, of a record that keeps no samples."""

    median: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.median <= self.high < math.inf:
            raise MeasurementError(
                f"a recorded time needs 0 < low <= median <= high, got {self.low}, {self.median}, {self.high}"
            )


def paired_change(before: Measurement, after: Measurement) -> Estimate:
    """Of two candidates of one interleaved run: the median over the rounds of after / before."""
    return _bootstrap([round_ratios(after, before)], lambda drawn: drawn[0])


def unpaired_change(before: Measurement, after: Measurement) -> Estimate:
    """Of two runs: the ratio of the medians of their rounds.

    Example:
        >>> unpaired_change(Measurement((10.0,) * 9, True), Measurement((11.0,) * 9, True)).low
        1.1
    """
    return _bootstrap([before.by_round(), after.by_round()], lambda drawn: drawn[1] / drawn[0])


def relative_change(
    before: Measurement, after: Measurement, reference_before: Measurement, reference_after: Measurement
) -> Estimate:
    """Of two runs with a reference in both: how the time changed as a multiple of the reference's."""
    return _bootstrap(
        [round_ratios(before, reference_before), round_ratios(after, reference_after)],
        lambda drawn: drawn[1] / drawn[0],
    )


def summary_change(before: Summary, after: Summary) -> Estimate:
    """Of two records without samples, as if the logarithms of their medians were normal."""
    value = math.log(after.median / before.median)
    errors = [math.log(one.high / one.low) / (2 * _Z95) for one in (before, after)]
    half = _Z95 * math.hypot(*errors)
    return Estimate(math.exp(value), math.exp(value - half), math.exp(value + half))


def accuracy_change(before: Accuracy, after: Accuracy) -> Estimate:
    """After minus before, in [-1, 1], as of different images.

    Example:
        >>> change = accuracy_change(Accuracy.of_counts(80, 100, split="val"), Accuracy.of_counts(60, 100, split="val"))
        >>> round(change.value, 2), change.high < 0
        (-0.2, True)
    """
    value = after.value - before.value
    below = math.hypot(after.value - after.low, before.high - before.value)
    above = math.hypot(after.high - after.value, before.value - before.low)
    return Estimate(value, value - below, value + above)


def judge_slowdown(change: Estimate, threshold: float) -> Verdict:
    """FAIL where it is slower by more than ``threshold`` (0.05: 5 %) for sure, PASS where for sure it is not."""
    if not change.sure:
        return Verdict.INCONCLUSIVE
    if change.low > 1 + threshold:
        return Verdict.FAIL
    return Verdict.PASS if change.high <= 1 + threshold else Verdict.INCONCLUSIVE


def judge_loss(change: Estimate, drop: float) -> Verdict:
    """FAIL where the accuracy fell by more than ``drop`` (0.005: half a point) for sure, PASS where for sure not."""
    if change.high < -drop:
        return Verdict.FAIL
    return Verdict.PASS if change.low >= -drop else Verdict.INCONCLUSIVE


def _bootstrap(rows: Sequence[Sequence[float]], figure: Callable[[Sequence[float]], float]) -> Estimate:
    """A figure of the medians of some rows, each drawn by itself."""
    if min(len(row) for row in rows) < LEAST_ROUNDS:
        value = figure([median(row) for row in rows])
        return Estimate(value, value, value, sure=False)
    return Estimate(*median_interval(rows, figure))

"""Measured latencies with their doubt."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import NormalDist, median
from typing import Any, ClassVar

from tavt_kit.core.codec import Record, encode, recorded_as
from tavt_kit.errors import MeasurementError

_Z95 = NormalDist().inv_cdf(0.975)
DRAWS = 2000
"""Of a bootstrap: the ends of a 95 % interval then lie within about 0.5 % of their percentiles."""
LEAST_ROUNDS = 6
"""Fewer rounds have no 95 % interval of their median (``median_ranks``): resampling cannot go beyond what was seen."""
LEAST_FOR_BLOCKS = 20
"""Fewer rounds are drawn one by one."""


@dataclass(frozen=True, slots=True)
class Measurement(Record):
    """Times of single inferences: all raw samples; everything else is a view of them.

    Args:
        samples: Milliseconds of one inference each, in the order taken.
        steady: Whether the protocol's precision (a narrow interval of the median) was reached in time.
        rounds: How many samples each round of an interleaved measurement took; empty means one each. Rounds
            of candidates measured together are the pairs of ``paired_ratio``.
        load_ms: Loading and compiling, before the first inference, which took ``first_ms``.
        speed_factor: Factor of the samples, to stand beside those of another moment; see ``at_speed_factor``.
        among: Measurements that it was chosen from: the quickest of many looks quicker than it is, so its bounds share
            the doubt of one (Bonferroni).

    Raises:
        MeasurementError: No samples, a time that is not above zero and finite, or rounds that do not add up.
    """

    samples: tuple[float, ...]
    steady: bool
    rounds: tuple[int, ...] = ()
    load_ms: float | None = None
    first_ms: float | None = None
    warmup: int = 0
    speed_factor: float = field(default=1.0, metadata=recorded_as("pace"))
    among: int = 1
    BESIDE: ClassVar[None] = None
    """The views of the samples, and what their readers add."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", tuple(float(sample) for sample in self.samples))
        object.__setattr__(self, "rounds", tuple(int(size) for size in self.rounds))
        if not self.samples:
            raise MeasurementError("a measurement needs at least one sample, but none was taken")
        if not all(sample > 0 and math.isfinite(sample) for sample in self.samples):
            raise MeasurementError(
                "a time must be above 0 ms and finite, got "
                f"{next(s for s in self.samples if not (s > 0 and math.isfinite(s)))}"
            )
        if self.rounds and (sum(self.rounds) != len(self.samples) or min(self.rounds) < 1):
            raise MeasurementError(f"the rounds {self.rounds} must add up to the {len(self.samples)} samples")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def median(self) -> float:
        """Half of the inferences were faster (ms)."""
        return median(self.samples)

    @property
    def p10(self) -> float:
        """10th percentile (ms), interpolated linearly."""
        return percentile(self.samples, 0.10)

    @property
    def p90(self) -> float:
        """90th percentile (ms), interpolated linearly."""
        return percentile(self.samples, 0.90)

    @property
    def p99(self) -> float:
        """99th percentile (ms), interpolated linearly; with fewer than 100 samples close to the slowest."""
        return percentile(self.samples, 0.99)

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (percentile(self.samples, 0.75) - percentile(self.samples, 0.25)) / self.median

    @property
    def interval95(self) -> tuple[float, float]:
        """95 % interval of the median by order statistics (``median_ranks``).

        Where rounds are known they are the independent units, not the samples: noise outlasts a run.
        """
        low, high = _median_interval(self.by_round())
        return min(low, self.median), max(high, self.median)

    @property
    def relative_half_width(self) -> float:
        """Half of ``interval95`` as a share of the median: "8.1 ms ± 2 %"."""
        low, high = self.interval95
        return (high - low) / 2 / self.median

    def by_round(self) -> tuple[float, ...]:
        """The median of each round (ms)."""
        if not self.rounds:
            return self.samples
        medians, start = [], 0
        for size in self.rounds:
            medians.append(median(self.samples[start : start + size]))
            start += size
        return tuple(medians)

    def at_speed_factor(self, factor: float) -> Measurement:
        """As it would have been where the machine takes ``factor`` times as long for everything.

        Processors change their clock for minutes at a time. Candidates that were not measured in the same run can be
        compared only by what something that was in both runs (the dense model) took in each.
        """
        if factor == 1.0:
            return self
        return replace(self, samples=tuple(factor * ms for ms in self.samples), speed_factor=factor * self.speed_factor)

    def __str__(self) -> str:
        """For people: ``8.1 ms ± 2 % (n=60)``."""
        width = f" ± {100 * self.relative_half_width:.1f} %" if self.steady else ", unsteady"
        return f"{self.median:.3g} ms{width} (n={self.n})"

    def as_record(self) -> dict[str, Any]:
        """For a JSON record: the raw samples, and the views for readers without this package."""
        views = ("median", "p10", "p90", "p99", "spread", "interval95", "steady", "load_ms", "first_ms", "warmup")
        return {
            **{name: encode(getattr(self, name)) for name in views},
            "pace": self.speed_factor,
            "samples": [round(sample, 6) for sample in self.samples],
            "rounds": list(self.rounds),
        }


@dataclass(frozen=True, slots=True)
class PairedRatio(Record):
    """How many times longer one candidate takes than another, round by round; the value is their median."""

    value: float
    low: float
    high: float
    n: int
    method: str = "order statistics of the rounds"

    @property
    def relative_half_width(self) -> float:
        """Half of the interval as a share of the ratio."""
        return (self.high - self.low) / 2 / self.value

    @property
    def word(self) -> str:
        """``faster`` or ``slower``, of the second candidate; ``INCONCLUSIVE`` where the interval has 1 in it."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "INCONCLUSIVE"


def paired_ratio(slow: Measurement, fast: Measurement) -> PairedRatio:
    """``slow`` over ``fast``, each round of an interleaved measurement being one pair.

    Noise that lasts longer than a round (another process, a falling clock) hits both alike and cancels.
    """
    ratios = round_ratios(slow, fast)
    low, high = _median_interval(ratios)
    return PairedRatio(median(ratios), low, high, len(ratios))


def round_ratios(slow: Measurement, fast: Measurement) -> list[float]:
    """``slow`` over ``fast``, round by round, in the order of time."""
    return [x / y for x, y in zip(slow.by_round(), fast.by_round(), strict=False)]


METHOD = (
    f"percentile bootstrap over rounds, from {LEAST_FOR_BLOCKS} rounds on over blocks of neighbouring ones; median of "
    f"{DRAWS} resamples"
)


def bootstrap_ratio(slow: Measurement, fast: Measurement, *, seed: int = 0) -> PairedRatio:
    """As ``paired_ratio``, with an interval by a bootstrap of blocks of rounds, because noise outlasts a round.

    Of fewer than ``LEAST_ROUNDS`` rounds the whole range is given. The circular block bootstrap (Politis & Romano, A
    circular block-resampling procedure for stationary data, 1992): behind the last round comes the first; blocks are
    about the cube root of the rounds long; percentile intervals. Of fewer than ``LEAST_FOR_BLOCKS`` each round
    is a block of its own: fewer draws make the interval too narrow, which weighs more (of independent rounds, 6 a row,
    blocks of two hold the truth 84 times in 100, single ones 91).
    """
    ratios = round_ratios(slow, fast)
    value, n = median(ratios), len(ratios)
    if n < LEAST_ROUNDS:
        return PairedRatio(value, min(ratios), max(ratios), n, "range of the rounds, too few for an interval")
    draws, length, medians = random.Random(seed), round(n ** (1 / 3)), list[float]()
    for _ in range(DRAWS):
        if n < LEAST_FOR_BLOCKS:
            sample = draws.choices(ratios, k=n)
        else:
            sample = list[float]()
            while len(sample) < n:
                start = draws.randrange(n)
                sample += [ratios[(start + step) % n] for step in range(min(length, n - len(sample)))]
        medians.append(median(sample))
    low, high = percentile(medians, 0.025), percentile(medians, 0.975)
    return PairedRatio(value, min(low, value), max(high, value), n, METHOD)


def percentile(samples: Sequence[float], share: float) -> float:
    """The ``share`` quantile, interpolated linearly between the two nearest samples (numpy's default)."""
    ordered = sorted(samples)
    rank = share * (len(ordered) - 1)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


@cache
def median_ranks(n: int) -> tuple[int, int]:
    """The ranks (from 0) of ``n`` sorted samples that enclose the true median 95 times in 100 or more.

    The number of independent samples below the median is binomial(n, 1/2) whatever the distribution. Below 6
    samples no pair of ranks reaches 95 %, and the whole range is given.
    Source: David & Nagaraja, Order Statistics, section 7.1.
    """
    if n > 1000:  # the normal approximation is off by less than a rank here, and exact sums get slow
        below = math.floor((n - 1 - _Z95 * math.sqrt(n)) / 2)
        return below, n - 1 - below
    below, tail = 0, 0.5**n
    while below + 1 < (n + 1) // 2 and tail + math.comb(n, below + 1) * 0.5**n <= 0.025:
        below += 1
        tail += math.comb(n, below) * 0.5**n
    return below, n - 1 - below


def _median_interval(samples: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(samples)
    low, high = median_ranks(len(ordered))
    return ordered[low], ordered[high]

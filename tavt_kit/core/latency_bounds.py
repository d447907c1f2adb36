"""Bounds of a latency's quantile from runs that follow one another, which are not independent.

A slow run is followed by slow ones. ``effective_runs`` says how many independent runs would say as much about a
quantile; the bounds are then order statistics by exact binomial ranks (Hahn and Meeker, Statistical Intervals, 5.3),
which assume nothing of the distribution. How long a run is remembered is taken from the indicator of the runs above the
quantile, by two estimates of which the worse counts: the initial monotone sequence of its autocorrelations (Geyer,
Practical Markov chain Monte Carlo, Statistical Science 7, 1992), which sees short memory, and the spread of the means
of nine batches with Student's t for their small number (Schmeiser, Batch size effects in the analysis of simulation
output, Operations Research 30, 1982), which sees a slow drift. ``examples/studies/verdicts.py`` shows what this keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from tavt_kit.core.accuracy import bits_text
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import BudgetError

DOUBT = 0.05
"""How often a bound may be wrong."""

LEAST_RUNS = 40
"""Of fewer runs that differ nothing tells how long one is remembered: they count as one."""

_BATCHES = 9
# Memory hides in few runs: of twice as many it is taken half as long again, of ten times as many a tenth.
_FEW_RUNS = 20
_FEW_ABOVE = 3  # The same of runs above the quantile: of thirty, as a minute has above its p99, a tenth more
_SUMMED = 0.25  # The part of the runs over which autocorrelations are summed at most: what lies beyond is noise


@lru_cache(maxsize=256)
def latency_bounds(
    measurement: Measurement, statistic: str | None = "p90", doubt: float = DOUBT
) -> tuple[float, float]:
    """Lower and upper bound of a quantile (ms), each wrong with a probability of at most ``doubt``.

    An unsteady measurement is of a machine that changed on the way, and what it would have been on a quiet one no
    statistic tells: its bounds are at least its fastest and its slowest run, so that it decides nothing near the line.
    One that was chosen from many has its share of the doubt, so that all of them together are as seldom wrong.
    """
    if statistic not in ("p50", "p90", "p99"):
        raise BudgetError(f"only latency[p50], latency[p90] and latency[p99] can be judged, got {statistic!r}")
    low, high = quantile_bounds(measurement.samples, int(statistic[1:]) / 100, doubt / measurement.among)
    if not measurement.steady:
        low, high = min(low, *measurement.samples), max(high, *measurement.samples)
    return low, high


def quantile_bounds(samples: Sequence[float], quantile: float, doubt: float = DOUBT) -> tuple[float, float]:
    """Bounds of the true quantile, each wrong with a probability of at most ``doubt``.

    Ties are harmless (the bounds only get safer). Too few runs for an upper bound give infinity: for the 0.9 quantile
    29 are needed, for the 0.99 quantile 299. Enough runs that say as little as fewer independent ones, as on a busy
    machine, are bounded as far above the slowest as that is from the fastest: no verdict near the line, and one where
    the line is far. The samples are in the order taken.
    """
    ordered, n = sorted(samples), len(samples)
    count = int(effective_runs(samples, quantile, doubt))
    below, low, high = 0.0, ordered[0], math.inf
    # below = P(Bin(count, quantile) < rank) = P(the sample of this rank lies above the quantile)
    for rank in range(1, count + 1):
        below += _binomial(count, rank - 1, quantile)
        if below <= doubt:
            low = ordered[(rank - 1) * n // count]
        if below >= 1 - doubt:
            high = ordered[n - 1 - (count - rank) * n // count]
            break
    if high == math.inf and quantile**n <= doubt:
        high = 2 * ordered[-1] - ordered[0]
    return low, high


def effective_runs(samples: Sequence[float], quantile: float, doubt: float = DOUBT) -> float:
    """How many independent runs would say as much about a quantile: 1 to the number of samples, in the order taken."""
    n, slowest = len(samples), max(samples)
    if slowest == min(samples):
        return float(n)
    if n < LEAST_RUNS:
        return 1.0
    line = sorted(samples)[math.ceil(quantile * n) - 1]
    above = [sample > line or sample == slowest for sample in samples]
    memory = max(1.0, _memory_by_lags(above), _memory_by_batches(above) * _few_batches(doubt))
    hidden = max(_FEW_RUNS / n, _FEW_ABOVE / sum(above)) if memory > 1 else 0.0
    return max(1.0, n / memory / (1 + hidden))


def _memory_by_lags(above: Sequence[bool]) -> float:
    """Integrated autocorrelation time of an indicator, in runs: 1 of independent ones."""
    n, total = len(above), sum(above)
    bits = int(bits_text(above), 2)
    mean = total / n

    def covariance(lag: int) -> float:
        both = (bits & (bits >> lag)).bit_count()
        first, last = (bits >> lag).bit_count(), (bits & ((1 << (n - lag)) - 1)).bit_count()
        return (both - mean * (first + last) + (n - lag) * mean * mean) / n

    variance, time, pair, lag = covariance(0), -1.0, math.inf, 0
    while lag < _SUMMED * n:
        pair = min(pair, (covariance(lag) + covariance(lag + 1)) / variance)
        if pair <= 0:
            break
        time, lag = time + 2 * pair, lag + 2
    # The mean is that of these very runs, which makes each term too small by about the variance of that mean.
    return time / (1 - lag / n)


def _memory_by_batches(above: Sequence[bool]) -> float:
    """The same by the spread of the means of batches."""
    n, mean = len(above), sum(above) / len(above)
    ends = [n * batch // _BATCHES for batch in range(_BATCHES + 1)]
    means = [sum(above[start:end]) / (end - start) for start, end in zip(ends, ends[1:], strict=False)]
    middle = sum(means) / _BATCHES
    spread = sum((batch - middle) ** 2 for batch in means) / (_BATCHES - 1)
    return n / _BATCHES * spread / (mean * (1 - mean))


@lru_cache(maxsize=256)
def _few_batches(doubt: float) -> float:
    """What so few batches leave open: how much wider Student's t is than the normal distribution, squared.

    Its distribution function of 8 degrees of freedom, one less than batches, is a finite sum (Abramowitz and Stegun,
    Handbook of Mathematical Functions, 26.7.4).
    """
    low, high = 0.0, 1e6
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        angle = math.atan(middle / math.sqrt(_BATCHES - 1))
        square = math.cos(angle) ** 2
        above = 0.5 - 0.5 * math.sin(angle) * (1 + square / 2 + 3 * square**2 / 8 + 5 * square**3 / 16)
        low, high = (middle, high) if above > doubt else (low, middle)
    return (high / NormalDist().inv_cdf(1 - doubt)) ** 2


def _binomial(n: int, k: int, p: float) -> float:
    """P(Bin(n, p) = k), through logarithms so that thousands of samples do not overflow."""
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))

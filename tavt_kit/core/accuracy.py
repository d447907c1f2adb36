"""Accuracy and the difference of two accuracies on the same images, each with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import ClassVar

from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.errors import MeasurementError

_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Accuracy(Record):
    """A share of images in [0, 1], with the split it was counted on and the ends of its 95 % interval.

    Raises:
        MeasurementError: No images, a NaN, or values that are not ``0 <= low <= value <= high <= 1``.
    """

    metric: str
    split: str
    value: float
    n: int
    low: float = field(metadata=recorded_as("ci95", 0))
    high: float = field(metadata=recorded_as("ci95", 1))

    def __post_init__(self) -> None:
        if self.n < 1:
            raise MeasurementError(f"an accuracy needs at least one image, got n={self.n}")
        if not 0.0 <= self.low <= self.value <= self.high <= 1.0:
            raise MeasurementError(
                f"an accuracy needs 0 <= low <= value <= high <= 1, got {self.low}, {self.value}, {self.high}"
            )

    @classmethod
    def of_counts(cls, correct: int, n: int, *, split: str, metric: str = "top1") -> Accuracy:
        """From counted images, with Wilson's score interval (Wilson 1927), which stays inside [0, 1]."""
        if n < 1 or not 0 <= correct <= n:
            raise MeasurementError(f"{correct} correct of {n} images is no accuracy; there must be at least one image")
        low, high = wilson(correct, n)
        return cls(metric, split, correct / n, n, low, high)

    def bounds(self, doubt: float) -> tuple[float, float]:
        """What a verdict goes by: bounds that are wrong with a probability of at most ``doubt`` each.

        Of counted images they are exact (Clopper and Pearson, The use of confidence or fiducial limits illustrated in
        the case of the binomial, Biometrika 26, 1934): Wilson's interval is right on the average, but near 100 % too
        often above the truth. Of other metrics the 95 % interval is stretched as a normal one.
        """
        correct = round(self.value * self.n)
        counted = math.isclose(self.value * self.n, correct, abs_tol=1e-6)
        if counted and math.dist(wilson(correct, self.n), (self.low, self.high)) < 1e-6:
            return _exact_low(correct, self.n, doubt), 1 - _exact_low(self.n - correct, self.n, doubt)
        stretch = NormalDist().inv_cdf(1 - doubt) / _Z95
        return (
            max(0.0, self.value - stretch * (self.value - self.low)),
            min(1.0, self.value + stretch * (self.high - self.value)),
        )

    def __str__(self) -> str:
        """For people: ``84.1 % [81.0, 86.7] (val, n=512)``."""
        interval = f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{100 * self.value:.1f} % {interval} ({self.split}, n={self.n})"


@dataclass(frozen=True, slots=True)
class PairedDifference(Record):
    """How much more accurate a candidate is than its source, in [-1, 1], both having seen the same images.

    It gained the images that only the candidate has right, and lost those that only the source has.
    """

    difference: float
    low: float = field(metadata=recorded_as("ci95", 0))
    high: float = field(metadata=recorded_as("ci95", 1))
    n: int
    gained: int
    lost: int
    method: ClassVar[str] = "Tango 1998 score interval"
    VIEWS: ClassVar[tuple[str, ...]] = ("method",)

    @property
    def flips(self) -> int:
        """Images that one has right and the other wrong."""
        return self.gained + self.lost

    @classmethod
    def of_counts(cls, gained: int, lost: int, n: int) -> PairedDifference:
        """From the discordant counts, with Tango's score interval.

        The interval holds every difference that the score test of paired proportions does not refuse at 5 %.
        It keeps its coverage at few or no flips, where the Wald interval collapses to a point: without any
        flip in n images it is ± z² / (n + z²), not ± 0.
        Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design, Statistics in Medicine 17 (1998), 891-908.
        """
        if n < 1 or gained < 0 or lost < 0 or gained + lost > n:
            raise MeasurementError(f"{gained} gained and {lost} lost of {n} images is no comparison; give one or more")
        value = (gained - lost) / n
        low, high = _tango_interval(gained, lost, n, _Z95, 0.0)
        return cls(value, low, high, n, gained, lost)

    def bounds(self, doubt: float) -> tuple[float, float]:
        """What a verdict goes by: bounds that are wrong with a probability of at most ``doubt`` each.

        Tango's, with half an image of continuity: without it no flip in a few hundred images would prove a loss
        below z² / (n + z²) more often than it may.
        """
        return _tango_interval(self.gained, self.lost, self.n, NormalDist().inv_cdf(1 - doubt), 0.5)

    @classmethod
    def of_bits(cls, source: str, candidate: str) -> PairedDifference:
        """From which of the same images each had right, as ``bits_text`` writes it; of as many, or MeasurementError."""
        if len(source) != len(candidate):
            raise MeasurementError(f"paired answers must be to the same images, got {len(source)} and {len(candidate)}")
        pairs = list(zip(source, candidate, strict=True))
        return cls.of_counts(pairs.count(("0", "1")), pairs.count(("1", "0")), len(pairs))


def bits_text(correct: Iterable[object]) -> str:
    """Which images were right, as records keep it: a ``1`` for each that was, in their order, else a ``0``."""
    return "".join("1" if right else "0" for right in correct)


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of ``correct / n``; it holds ``correct / n`` itself, 0 and 1 included."""
    share, z2 = correct / n, _Z95 * _Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)


@lru_cache(maxsize=4096)  # a search asks for the same counts again and again
def _exact_low(correct: int, n: int, doubt: float) -> float:
    """The least share of which ``correct`` or more of ``n`` would be seen with a probability of ``doubt``."""
    if correct == 0:
        return 0.0

    def at_least(share: float) -> float:
        """P(Bin(n, share) >= correct) of a share below ``correct / n``, where terms fall from the first on."""
        term = math.exp(
            math.lgamma(n + 1) - math.lgamma(correct + 1) - math.lgamma(n - correct + 1)
            + correct * math.log(share) + (n - correct) * math.log1p(-share)
        )  # fmt: skip
        total, count = term, correct
        while count < n and term > 1e-12 * total:
            term *= (n - count) / (count + 1) * share / (1 - share)
            total, count = total + term, count + 1
        return total

    return _bisect(lambda share: share == 0.0 or at_least(share) < doubt, 0.0, min(correct / n, 1 - 1e-12))


@lru_cache(maxsize=4096)
def _tango_interval(gained: int, lost: int, n: int, z: float, continuity: float) -> tuple[float, float]:
    """All differences that the score test of paired proportions does not refuse at ``z``."""
    value = (gained - lost) / n

    def refused(difference: float, sign: float) -> bool:
        return sign * _tango_z(difference, gained - sign * continuity, lost, n) > z

    low = value if value == -1.0 else _bisect(lambda d: refused(d, 1.0), -1.0, value)
    high = value if value == 1.0 else _bisect(lambda d: refused(d, -1.0), 1.0, value)
    return low, high


def _tango_z(difference: float, gained: float, lost: int, n: int) -> float:
    """Tango's score statistic of the hypothesis that the true difference is ``difference``."""
    # q: the most likely share of "only the source is right", given the difference: 2n q² + b q + c = 0.
    b = -(gained + lost) + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * q + difference * (1 - difference))
    distance = gained - lost - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _bisect(refused: Callable[[float], bool], outside: float, inside: float) -> float:
    """The border between a refused and an accepted difference; 60 halvings leave nothing to resolve."""
    if not refused(outside):
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if refused(middle) else (outside, middle)
    return inside

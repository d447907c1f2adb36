"""Pareto dominance, the front of a search, its hypervolume and its knee: low cost against a high metric.

A NaN never enters a front; of equals the first stays.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence

from tavt_kit.core.candidate import Candidate, CostKind
from tavt_kit.errors import RecordError

Point = tuple[float, float]
"""(cost, metric)"""


def dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better; never, where a NaN is involved.

    Args:
        a: (cost, metric); a low cost and a high metric are good.

    Example:
        >>> dominates((1.0, 0.9), (2.0, 0.9)), dominates((1.0, 0.9), (1.0, 0.9))
        (True, False)
    """
    return a[0] <= b[0] and a[1] >= b[1] and a != b


class ParetoFront:
    """The non-dominated candidates of one search, by rising cost (with two axes, so by rising metric).

    Args:
        more: Further axes, each a kind of cost or the name of a metric.

    Raises:
        RecordError: Candidates of two targets, metrics or splits.

    Example:
        >>> from tavt_kit.core.accuracy import Accuracy
        >>> from tavt_kit.core.schedule import TokenSchedule
        >>> right = Accuracy.of_counts(8, 10, split="val")
        >>> front = ParetoFront("macs")
        >>> front.add(Candidate(TokenSchedule((5, 5)), 100, right))
        True
        >>> front.add(Candidate(TokenSchedule((5, 4)), 100, right))
        False
    """

    def __init__(self, cost: CostKind, candidates: Iterable[Candidate] = (), more: Sequence[str] = ()) -> None:
        self.cost: CostKind = cost
        self.more: tuple[str, ...] = tuple(more)
        self._held: list[tuple[tuple[float, ...], Candidate]] = []
        self._family: tuple[object, ...] | None = None
        for candidate in candidates:
            self.add(candidate)

    def __repr__(self) -> str:
        axes = ", ".join((self.cost, *self.more))
        return f"<ParetoFront of {len(self._held)} candidates by {axes}>"

    def add(self, candidate: Candidate) -> bool:
        """Hold the candidate unless it is dominated, equalled or not fully known; say whether it entered."""
        losses = self._losses(candidate)
        if any(math.isnan(loss) for loss in losses):
            return False
        self._check_family(candidate)
        if any(_no_worse(held, losses) for held, _ in self._held):
            return False
        self._held = [(held, one) for held, one in self._held if not _no_worse(losses, held)]
        insort(self._held, (losses, candidate), key=lambda pair: pair[0])
        return True

    def point(self, candidate: Candidate) -> Point:
        """(cost, metric) of the candidate on this front's first two axes."""
        return candidate.cost(self.cost), candidate.metric

    def points(self) -> list[Point]:
        """(cost, metric) of all that are held."""
        return [self.point(candidate) for _, candidate in self._held]

    def hypervolume(self, dense: Candidate) -> float:
        """See ``hypervolume`` and ``dominated_volume``; costs become shares of the dense model's."""
        if not self.more:
            return hypervolume([(cost / dense.cost(self.cost), metric) for cost, metric in self.points()])
        own = (dense.loss(axis) if axis == "macs" else 1.0 for axis in self.more)
        scale = [dense.cost(self.cost), 1.0, *own]
        return dominated_volume([loss / one for loss, one in zip(held, scale, strict=True)] for held, _ in self._held)

    def _losses(self, candidate: Candidate) -> tuple[float, ...]:
        return (candidate.cost(self.cost), 1.0 - candidate.metric, *map(candidate.loss, self.more))

    def _check_family(self, candidate: Candidate) -> None:
        assert candidate.accuracy is not None  # a NaN metric was turned away before
        # Multiply-adds are the same on every target, latencies are not.
        target = None if self.cost == "macs" else candidate.target
        family = (candidate.accuracy.metric, candidate.accuracy.split, target)
        self._family = self._family or family
        if family != self._family:
            names = ", ".join("no target" if part is None else str(part) for part in family)
            held = ", ".join("no target" if part is None else str(part) for part in self._family)
            raise RecordError(f"a front holds one metric, split and target ({held}), so it cannot take {names}")

    def __iter__(self) -> Iterator[Candidate]:
        return iter([candidate for _, candidate in self._held])

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, index: int) -> Candidate:
        return self._held[index][1]


def _no_worse(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere above ``b``."""
    return all(one <= other for one, other in zip(a, b, strict=True))


def hypervolume(points: Iterable[Point], reference: Point = (1.0, 0.0)) -> float:
    """The area that the points dominate, up to the reference point.

    Args:
        points: (cost relative to dense, metric); dominated points add nothing, NaN points are left out.
        reference: The worst point: the dense model's cost, no image right.

    Example:
        >>> round(hypervolume([(0.5, 0.8), (0.25, 0.4)]), 6)
        0.5
    """
    area, edge = 0.0, reference[0]
    known = (point for point in points if not (math.isnan(point[0]) or math.isnan(point[1])))
    best = reference[1]
    steps: list[Point] = []
    for cost, metric in sorted(known, key=lambda point: (point[0], -point[1])):
        if cost < reference[0] and metric > best:
            steps.append((cost, metric))
            best = metric
    for cost, metric in reversed(steps):
        area += (edge - cost) * (metric - reference[1])
        edge = cost
    return area


def dominated_volume(points: Iterable[Sequence[float]]) -> float:
    """The share of the unit cube that the points dominate, in any number of dimensions; by slices, so exact.

    Args:
        points: Every coordinate is to be minimised; the reference is 1 everywhere. What is not below it, or is NaN,
            adds nothing.

    Example:
        >>> round(dominated_volume([(0.5, 0.2), (0.25, 0.6)]), 6), dominated_volume([(0.5, 0.5, 0.5)])
        (0.5, 0.125)
    """
    return _slices(sorted((tuple(point) for point in points if all(value < 1 for value in point)), key=lambda p: p[-1]))


def _slices(points: Sequence[tuple[float, ...]]) -> float:
    """Points by their last coordinate: what they dominate of the cube."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return 1 - points[0][0]
    volume, area, best = 0.0, 0.0, 1.0
    for place, point in enumerate(points):
        end = points[place + 1][-1] if place + 1 < len(points) else 1.0
        if len(point) == 2:
            best = min(best, point[0])
            area = 1 - best
        elif end > point[-1]:
            area = _slices(sorted((one[:-1] for one in points[: place + 1]), key=lambda p: p[-1]))
        volume += area * (end - point[-1])
    return volume


def knee(points: Sequence[Point]) -> int:
    """The index of the point farthest above the chord from the cheapest to the best, both axes scaled to 1.

    Args:
        points: Non-dominated, by rising cost.

    Returns:
        Where the bend is: spending more buys little after it. 0 for a single point, the best of two.

    Source: the normal-boundary knee of I. Das, On characterizing the "knee" of the Pareto curve (1999).

    Example:
        >>> knee([(1.0, 0.2), (2.0, 0.8), (9.0, 0.9)])
        1
    """
    if not points:
        raise RecordError("a front without candidates has no knee; search with a larger budget first")
    (low_cost, low), (high_cost, high) = points[0], points[-1]
    wide, tall = high_cost - low_cost, high - low
    if len(points) < 3 or wide <= 0 or tall <= 0:
        return len(points) - 1
    return max(range(len(points)), key=lambda i: (points[i][1] - low) / tall - (points[i][0] - low_cost) / wide)

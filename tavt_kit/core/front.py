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
    """Whether ``a`` is nowhere worse than ``b`` and somewhere better; never, where a NaN is involved."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b


class ParetoFront:
    """The non-dominated candidates of one search, by rising cost and so by rising metric.

    Raises:
        RecordError: Candidates of two targets, metrics or splits.
    """

    def __init__(self, cost: CostKind, candidates: Iterable[Candidate] = ()) -> None:
        self.cost: CostKind = cost
        self._held: list[tuple[Point, Candidate]] = []
        self._family: tuple[object, ...] | None = None
        for candidate in candidates:
            self.add(candidate)

    def __repr__(self) -> str:
        return f"<ParetoFront of {len(self._held)} candidates by {self.cost}>"

    def add(self, candidate: Candidate) -> bool:
        """Hold the candidate unless it is dominated, equalled or not fully known; say whether it entered."""
        point = self.point(candidate)
        if any(map(math.isnan, point)):
            return False
        self._check_family(candidate)
        if any(held == point or dominates(held, point) for held, _ in self._held):
            return False
        self._held = [(held, other) for held, other in self._held if not dominates(point, held)]
        insort(self._held, (point, candidate), key=lambda pair: pair[0])
        return True

    def point(self, candidate: Candidate) -> Point:
        """(cost, metric) of the candidate on this front's axes."""
        return candidate.cost(self.cost), candidate.metric

    def points(self) -> list[Point]:
        """(cost, metric) of all that are held."""
        return [point for point, _ in self._held]

    def hypervolume(self, dense: Candidate) -> float:
        """See ``hypervolume``; costs become shares of the dense model's."""
        return hypervolume([(cost / dense.cost(self.cost), metric) for cost, metric in self.points()])

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


def hypervolume(points: Iterable[Point]) -> float:
    """The area that the points dominate, up to the worst one: the dense model's cost, no image right.

    They are (cost relative to dense, metric); dominated points add nothing, NaN points are left out.
    """
    edge, best, area, steps = 1.0, 0.0, 0.0, list[Point]()
    known = (point for point in points if not (math.isnan(point[0]) or math.isnan(point[1])))
    for cost, metric in sorted(known, key=lambda point: (point[0], -point[1])):
        if cost < 1.0 and metric > best:
            steps.append((cost, metric))
            best = metric
    for cost, metric in reversed(steps):
        area += (edge - cost) * metric
        edge = cost
    return area


def knee(points: Sequence[Point]) -> int:
    """The index of the point farthest above the chord from the cheapest to the best, both axes scaled to 1.

    Spending more buys little after it. The points are non-dominated, by rising cost; of two it is the better one.

    Source: the normal-boundary knee of I. Das, On characterizing the "knee" of the Pareto curve (1999).
    """
    if not points:
        raise RecordError("a front without candidates has no knee; search with a larger budget first")
    (low_cost, low), (high_cost, high) = points[0], points[-1]
    wide, tall = high_cost - low_cost, high - low
    if len(points) < 3 or wide <= 0 or tall <= 0:
        return len(points) - 1
    return max(range(len(points)), key=lambda i: (points[i][1] - low) / tall - (points[i][0] - low_cost) / wide)

"""Whether a quick evaluator ranks schedules as the exact one does: rank correlation, and what its front would lose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import kendalltau

from tavt_kit.core.front import hypervolume
from tavt_kit.errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two evaluators are on the same schedules.

    Args:
        tau: Kendall's rank correlation of the accuracies (tau-b, which accounts for ties); 1 is the same order.
        overlap: Share of the exact front that the quick evaluator puts on its own.
        kept: Hypervolume, by exact accuracies, of the schedules on the quick front, as a share of the exact front's.
        largest: Difference of two accuracies of one schedule.
        schedules: How many were compared.
    """

    tau: float
    overlap: float
    kept: float
    largest: float
    schedules: int

    def as_record(self) -> Mapping[str, Any]:
        """For a JSON record."""
        return asdict(self)


def agreement(costs: Sequence[float], exact: Sequence[float], quick: Sequence[float]) -> Agreement:
    """Compare two evaluators on the same schedules.

    Args:
        costs: Of the schedules.
        exact: Accuracies.
        quick: Of the same schedules, by the other evaluator.

    Raises:
        MeasurementError: Fewer than two schedules, lists of different length, or a single accuracy for all.

    Example:
        >>> agreement([1, 2, 3], [0.5, 0.6, 0.7], [0.5, 0.7, 0.6]).overlap
        0.6666666666666666
    """
    if len(costs) < 2 or not len(costs) == len(exact) == len(quick):
        raise MeasurementError(
            f"ranks are compared on two schedules or more, each with a cost and two accuracies, got {len(costs)}, "
            f"{len(exact)} and {len(quick)}"
        )
    tau = float(kendalltau(exact, quick).statistic)
    if math.isnan(tau):
        raise MeasurementError("schedules that all have one accuracy have no ranks; compare others, or on more images")
    best, found = _front(costs, exact), _front(costs, quick)
    most = 2 * max(costs)  # beyond all costs, so that every point of a front counts

    def volume(front: set[int]) -> float:
        return hypervolume([(costs[i] / most, exact[i]) for i in front])

    largest = max(abs(one - other) for one, other in zip(exact, quick, strict=True))
    return Agreement(tau, len(best & found) / len(best), volume(found) / volume(best), largest, len(costs))


def _front(costs: Sequence[float], values: Sequence[float]) -> set[int]:
    """Places of the schedules that no cheaper one equals; of equals the first."""
    front, best = set(), -math.inf
    for place in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i])):
        if values[place] > best:
            front.add(place)
            best = values[place]
    return front

"""What a search knows before it looks at an image: the costs of schedules, and if a budget can be met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tavt_kit.budget import Budget, Limit
from tavt_kit.device import TargetDevice
from tavt_kit.errors import BudgetError, BudgetTooTight
from tavt_kit.schedule import TokenSchedule
from tavt_kit.search.space import Space

__all__ = ["Costs", "Reach", "check_reachable", "reach_of", "refuse_unsearchable"]

_SEARCHED = ("latency", "flops", "top1", "drop")


@dataclass(frozen=True, slots=True)
class Costs:
    """What a schedule costs, asked thousands of times, so without running anything.

    Args:
        macs: Multiply-adds of one image.
        latency_ms: The predicted median latency; ``None`` without a target.
        target: Where the latency is predicted for.
        tails: A latency statistic as a multiple of the median, as far as it is known; 1 where it is not.
    """

    macs: Callable[[TokenSchedule], int]
    latency_ms: Callable[[TokenSchedule], float] | None = None
    target: TargetDevice | None = None
    tails: Mapping[str, float] = field(default_factory=dict)

    def predicted(self, schedule: TokenSchedule) -> float | None:
        """The predicted median latency in ms, or ``None`` without a target."""
        return None if self.latency_ms is None else self.latency_ms(schedule)

    def of(self, limit: Limit, schedule: TokenSchedule) -> float:
        """What the schedule costs in the unit of a ceiling.

        Raises:
            BudgetError: A latency ceiling without a target.
        """
        if limit.quantity == "flops":
            return self.macs(schedule)
        if self.latency_ms is None:
            raise BudgetError(f"a latency is of a machine, so {limit} needs a target such as openvino:cpu")
        return self.latency_ms(schedule) * self.tails.get(limit.statistic or "", 1.0)

    def fits(self, budget: Budget, slack: float = 0.0) -> Callable[[TokenSchedule], bool]:
        """A test of schedules against the ceilings; latencies, being predicted, may exceed them by ``slack``."""
        slacks = {"latency": slack}
        ceilings = [(one, one.value * (1 + slacks.get(one.quantity, 0.0))) for one in budget.ceilings]
        return lambda schedule: all(self.of(limit, schedule) <= most for limit, most in ceilings)


@dataclass(frozen=True, slots=True)
class Reach:
    """One row of the feasibility table, in the unit of its limit.

    Args:
        limit: The limit asked for.
        least: The cost of the least schedule.
        dense: The cost of the dense model.
        reachable: Whether some schedule keeps to it.
    """

    limit: Limit
    least: float
    dense: float
    reachable: bool

    @property
    def note(self) -> str:
        """For people: what the row means."""
        if not self.reachable:
            return f"out of reach; the nearest feasible is {self.nearest}"
        return "dense keeps to it already" if self.limit.admits(self.dense) else "within reach"

    @property
    def nearest(self) -> str:
        """The limit itself, or the least that can be met, rounded up to two digits."""
        if self.reachable:
            return str(self.limit)
        step = 10.0 ** (math.floor(math.log10(self.least)) - 1)
        return f"{self.limit.name}={self.limit.show(math.ceil(self.least / step - 1e-9) * step)}"


def refuse_unsearchable(budget: Budget) -> None:
    """Raise BudgetError for a limit that a search does not act on yet, rather than ignore it."""
    for limit in budget:
        if limit.quantity not in _SEARCHED or limit.statistic == "e2e":
            raise BudgetError(
                f"{limit.name} is not yet a search constraint; limit latency, flops, top1 or drop, and check "
                f"{limit} on the exported model"
            )


def reach_of(space: Space, costs: Costs, budget: Budget, *, slack: float = 0.0) -> list[Reach]:
    """The feasibility table of the ceilings; no image is looked at.

    Args:
        space: What may be proposed.
        costs: See ``Costs``.
        budget: What is asked.
        slack: As in ``Costs.fits``.
    """
    fits = {limit: costs.fits(Budget((limit,)), slack) for limit in budget.ceilings}
    return [
        Reach(limit, costs.of(limit, space.least), costs.of(limit, space.dense), fits[limit](space.least))
        for limit in budget.ceilings
    ]


def check_reachable(rows: list[Reach]) -> None:
    """Raise BudgetTooTight for the first row out of reach, naming the nearest feasible value."""
    for row in rows:
        if not row.reachable:
            show = row.limit.show
            raise BudgetTooTight(
                f"the budget {row.limit} cannot be met: the least schedule of this model costs "
                f"{show(row.least)} and dense {show(row.dense)}; the nearest feasible budget is {row.nearest}"
            )

"""What a search knows before it looks at an image: the costs of schedules, and if a budget can be met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tavt_kit.core.budget import Budget, Limit
from tavt_kit.core.candidate import CostKind
from tavt_kit.core.configuration import Choice
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import BudgetError, BudgetTooTight
from tavt_kit.search.space import Space

NOT_OF_SCHEDULES = {
    "size": "dropping tokens leaves every weight, so all schedules have one size; make the file smaller with "
    "`precision=int8` at export",
    "memory": "dropping tokens hardly changes a peak, int8 does; judge the exported file by fgvc-kit bench",
}
"""What no choice of a schedule changes, and what to do about each."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a schedule costs, asked thousands of times, so without running anything.

    Args:
        macs: Multiply-adds of one image; ``official_macs`` by TAVT's own formula, for its official algorithm.
        latency_ms: The predicted median latency on ``target``; ``None`` without one.
        quantile_ratios: A latency statistic as a multiple of the median; 1 where it is not known.
    """

    macs: Callable[[Any], int]
    latency_ms: Callable[[Any], float] | None = None
    target: TargetDevice | None = None
    quantile_ratios: Mapping[str, float] = field(default_factory=dict)
    official_macs: Callable[[Any], int] | None = None

    def predicted(self, schedule: Choice) -> float | None:
        """The predicted median latency in ms, or ``None`` without a target."""
        return None if self.latency_ms is None else self.latency_ms(schedule)

    def by(self, kind: CostKind) -> Callable[[Any], float]:
        """What a front of this kind calls cost, before anything is measured; ``macs`` or ``predicted``."""
        known = {"macs": self.macs, "predicted": self.latency_ms}[kind]
        assert known is not None  # what is minimised is known of every schedule
        return known

    def of(self, limit: Limit, schedule: Choice) -> float:
        """What the schedule costs in the unit of a ceiling; raises BudgetError for a time without a target."""
        cost = COSTS[limit.quantity]
        if cost.is_timed and self.latency_ms is None:
            raise BudgetError(f"a latency is of a machine, so {limit} needs a target such as openvino:cpu")
        return cost.of(self, schedule, limit.statistic)

    def fits(self, budget: Budget, tolerance: float = 0.0) -> Callable[[Any], bool]:
        """A test of schedules against the ceilings; latencies, being predicted, may miss them by ``tolerance``."""

        def loosened(limit: Limit) -> Limit:
            factor = 1 + tolerance if COSTS[limit.quantity].is_timed else 1.0
            return replace(limit, value=limit.value * factor if limit.sense == "<=" else limit.value / factor)

        ceilings = [(limit, loosened(limit)) for limit in budget.ceilings]
        return lambda schedule: all(loose.admits(self.of(limit, schedule)) for limit, loose in ceilings)


@dataclass(frozen=True, slots=True)
class Cost:
    """What is limited, or minimised, before anything is measured.

    Args:
        kind: The record of a candidate that a front weighs for it.
        of: Costs, schedule and statistic of the limit -> in the unit of its limits.
        is_timed: Whether it is of a machine, and predicted.
    """

    kind: CostKind
    of: Callable[[Costs, Choice, str | None], float]
    is_timed: bool = True


def _latency(costs: Costs, schedule: Choice, statistic: str | None) -> float:
    return costs.by("predicted")(schedule) * costs.quantile_ratios.get(statistic or "", 1.0)


def _throughput(costs: Costs, schedule: Choice, statistic: str | None) -> float:
    return 1e3 * (1 if costs.target is None else costs.target.batch) / _latency(costs, schedule, "p50")


_MACS = Cost("macs", lambda costs, schedule, statistic: costs.macs(schedule), is_timed=False)
COSTS = {
    "macs": _MACS,
    "flops": _MACS,
    "latency": Cost("predicted", _latency),
    "throughput": Cost("predicted", _throughput),
}
"""By the quantity of a limit (``core.budget``), or the name of an objective."""


@dataclass(frozen=True, slots=True)
class Feasibility:
    """One row of the feasibility table, in the unit of its limit; ``least`` is the greatest throughput there is."""

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
        """The limit itself, or the nearest that can be met, rounded to three digits towards what can."""
        if self.reachable:
            return str(self.limit)
        step = 10.0 ** (math.floor(math.log10(self.least)) - 2)
        whole = self.least / step
        value = (math.ceil(whole - 1e-9) if self.limit.sense == "<=" else math.floor(whole + 1e-9)) * step
        return f"{self.limit.name}={self.limit.show(value)}"


def refuse_unsearchable(budget: Budget) -> None:
    """Raise BudgetError for a limit on which the choice of a schedule has no influence, rather than ignore it."""
    for limit in budget:
        if limit.name in NOT_OF_SCHEDULES:
            raise BudgetError(f"{limit} is no limit for a search, because {NOT_OF_SCHEDULES[limit.name]}")


def feasibility_table(space: Space, costs: Costs, budget: Budget, *, tolerance: float = 0.0) -> list[Feasibility]:
    """The feasibility table of the ceilings; no image is looked at."""
    fits = {limit: costs.fits(Budget((limit,)), tolerance) for limit in budget.ceilings}
    rows = []
    for limit in fits:
        known = [costs.of(limit, end) for end in space.ends]
        least = min(known) if limit.sense == "<=" else max(known)
        rows.append(Feasibility(limit, least, costs.of(limit, space.dense), any(map(fits[limit], space.ends))))
    return rows


def require_feasible(rows: Sequence[Feasibility], ways_out: Callable[[], str] = str) -> None:
    """Raise BudgetTooTight for the first row out of reach, naming the nearest feasible value.

    ``ways_out`` says, in that case alone, what else would meet it; it ends the sentence.
    """
    for row in rows:
        if not row.reachable:
            show = row.limit.show
            raise BudgetTooTight(
                f"the budget {row.limit} cannot be met by any schedule: the least schedule of this search costs "
                f"{show(row.least)} and dense {show(row.dense)}, and fewer patches are tried where `min_patches` says "
                f"so; the nearest feasible budget is {row.nearest}{ways_out()}"
            )

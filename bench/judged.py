"""Does a measured candidate keep to the limits of a budget? Each answer is by its own interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tavt_kit.bench.record import BenchRow
from tavt_kit.core.budget import Budget, Fact, Limit, Verdict, facts_of, time_facts
from tavt_kit.core.budget import judge as judge_limit
from tavt_kit.core.latency_bounds import latency_bounds
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Judged:
    """One limit, answered.

    Args:
        fact: Known value; ``None`` where nothing is known.
    """

    limit: Limit
    verdict: Verdict
    fact: Fact | None

    @property
    def reason(self) -> str:
        """Why nothing is known; else empty."""
        return "" if self.fact is not None else _UNKNOWN[self.limit.quantity]

    def as_record(self) -> dict[str, Any]:
        """For a JSON record; an upper bound that the samples do not give is null."""
        low, high = (None, None) if self.fact is None else (self.fact.low, self.fact.high)
        return {
            "budget": str(self.limit),
            "verdict": str(self.verdict),
            "low": low,
            "high": None if high == float("inf") else high,
            "reason": self.reason,
        }


def refuse_qualities(budget: Budget) -> None:
    """Raise BudgetError where a limit is on what only labelled images tell."""
    if budget.floors:
        raise BudgetError(
            f"a bench measures no accuracy, got {budget.floors[0]}; use fgvc-kit check or eval for that limit"
        )


def judge(one: BenchRow, budget: Budget, *, is_quiet: bool) -> tuple[Judged, ...]:
    """Every limit of the budget, answered for one candidate.

    Args:
        is_quiet: Whether the machine was steady; if not, every measurement counts as unsteady.
    """
    facts = _facts(one, is_quiet)
    return tuple(Judged(limit, judge_limit(limit, facts), facts.get(limit.name)) for limit in budget)


def _facts(one: BenchRow, is_quiet: bool) -> dict[str, Fact]:
    def watched(measured: Measurement) -> Measurement:
        return measured if is_quiet else replace(measured, steady=False)

    found = facts_of(macs=one.macs, latency=watched(one.latency))
    # Of many inferences in flight the rate is by the wall clock, not by how long each takes.
    median = latency_bounds(watched(one.measurement), "p50")
    found["throughput"] = time_facts({"p50": median}, one.target.batch)["throughput"]
    if one.end_to_end is not None:
        found |= time_facts({"e2e": latency_bounds(watched(one.end_to_end.measurement), "p90")})
    counted = {"size": one.size_bytes, "memory": one.memory_bytes}
    return found | {name: Fact(value, value) for name, value in counted.items() if value is not None}


_UNKNOWN = {
    "latency": "no end-to-end time was taken",
    "flops": "its multiply-adds are not known",
    "size": "a live model has no file",
    "memory": "its peak memory could not be measured",
}
"""Why nothing is known, by quantity."""

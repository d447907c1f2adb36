"""Does a measured candidate keep to the limits of a budget? Each answer is by its own interval."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tavt_kit.bench.record import BenchRow
from tavt_kit.core.budget import Budget, Fact, facts_of, time_facts
from tavt_kit.core.budget import judge as judge_limit
from tavt_kit.core.latency_bounds import latency_bounds
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import BudgetError

# Why nothing is known, by quantity.
_UNKNOWN = {
    "latency": "no end-to-end time was taken",
    "flops": "its multiply-adds are not known",
    "size": "a live model has no file",
    "memory": "its peak memory could not be measured",
}


def refuse_qualities(budget: Budget) -> None:
    """Raise BudgetError where a limit is on what only labelled images tell."""
    if budget.floors:
        raise BudgetError(
            f"a bench measures no accuracy, got {budget.floors[0]}; use fgvc-kit check or eval for that limit"
        )


def judge(one: BenchRow, budget: Budget, *, is_quiet: bool) -> list[dict[str, Any]]:
    """Every limit of the budget, answered for one candidate.

    Args:
        is_quiet: Whether the machine was steady; if not, every measurement counts as unsteady.

    Returns:
        For the record: the limit, its verdict, the bounds (null where nothing gives them), and why nothing is known.
    """

    def watched(measured: Measurement) -> Measurement:
        return measured if is_quiet else replace(measured, steady=False)

    facts = facts_of(macs=one.macs, latency=watched(one.latency))
    # Of many inferences in flight the rate is by the wall clock, not by how long each takes.
    median = latency_bounds(watched(one.measurement), "p50")
    facts["throughput"] = time_facts({"p50": median}, one.target.batch)["throughput"]
    if one.end_to_end is not None:
        facts |= time_facts({"e2e": latency_bounds(watched(one.end_to_end.measurement), "p90")})
    counted = {"size": one.size_bytes, "memory": one.memory_bytes}
    facts |= {name: Fact(value, value) for name, value in counted.items() if value is not None}
    answers = []
    for limit in budget:
        fact = facts.get(limit.name)
        answers.append({
            "budget": str(limit),
            "verdict": str(judge_limit(limit, facts)),
            "low": None if fact is None else fact.low,
            "high": None if fact is None or fact.high == float("inf") else fact.high,
            "reason": "" if fact is not None else _UNKNOWN[limit.quantity],
        })  # fmt: skip
    return answers

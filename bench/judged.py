"""Does a measured candidate keep to the limits of a budget? Each answer is by its own interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tavt_kit.bench.record import Benched
from tavt_kit.core.budget import Budget, Limit
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.verdict import Verdict, judge_interval, judge_latency, judge_macs, latency_bounds
from tavt_kit.errors import BudgetError

__all__ = ["Judged", "judge", "refuse_qualities"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One limit, answered.

    Args:
        limit: What was asked.
        verdict: The answer.
        low: Lower bound of the value, in the limit's base unit; ``None`` where it is not known.
        high: Upper bound.
        reason: Why it is not known; else empty.
    """

    limit: Limit
    verdict: Verdict
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def as_record(self) -> dict[str, Any]:
        """For a JSON record; an upper bound that the samples do not give is null."""
        high = None if self.high == float("inf") else self.high
        return {
            "budget": str(self.limit),
            "verdict": str(self.verdict),
            "low": self.low,
            "high": high,
            "reason": self.reason,
        }


def refuse_qualities(budget: Budget) -> None:
    """Raise BudgetError where a limit is on what only labelled pictures tell."""
    if budget.floors:
        raise BudgetError(
            f"a bench measures no accuracy, got {budget.floors[0]}; use fgvc-kit check or eval for that limit"
        )


def judge(one: Benched, budget: Budget, *, is_quiet: bool) -> tuple[Judged, ...]:
    """Every limit of the budget, answered for one candidate.

    Args:
        one: Measured.
        budget: Of costs and rates.
        is_quiet: Whether the machine was steady; if not, the halves of every measurement must agree.
    """
    return tuple(_judge(one, limit, is_quiet) for limit in budget)


def _judge(one: Benched, limit: Limit, is_quiet: bool) -> Judged:
    if limit.quantity == "latency":
        return _latency(one, limit, is_quiet)
    if limit.quantity == "throughput":
        low, high = latency_bounds(_watched(one.measurement, is_quiet), "p50")
        least, most = one.target.batch * 1e3 / high, one.target.batch * 1e3 / low
        return Judged(limit, judge_interval(limit, least, most), least, most)
    if limit.quantity == "flops":
        if one.macs is None:
            return Judged(limit, Verdict.INCONCLUSIVE, reason="its multiply-adds are not known")
        return Judged(limit, judge_macs(limit, one.macs), one.macs, one.macs)
    known = one.size_bytes if limit.quantity == "size" else one.memory_bytes
    if known is None:
        why = "a live model has no file" if limit.quantity == "size" else "its peak memory could not be measured"
        return Judged(limit, Verdict.INCONCLUSIVE, reason=why)
    return Judged(limit, judge_interval(limit, known, known), known, known)


def _latency(one: Benched, limit: Limit, is_quiet: bool) -> Judged:
    measured = one.latency
    if limit.statistic == "e2e":
        if one.end_to_end is None:
            return Judged(limit, Verdict.INCONCLUSIVE, reason="no end-to-end time was taken")
        measured, limit_on = one.end_to_end.measurement, replace(limit, statistic="p90")
    else:
        limit_on = limit
    watched = _watched(measured, is_quiet)
    return Judged(limit, judge_latency(limit_on, watched), *latency_bounds(watched, limit_on.statistic))


def _watched(measured: Measurement, is_quiet: bool) -> Measurement:
    return measured if is_quiet else replace(measured, steady=False)

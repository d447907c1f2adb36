"""Does a recorded candidate keep to a budget? The rules of the search, held against what its record has."""

from __future__ import annotations

import math

from tavt_kit.core.budget import Budget, Fact, Verdict, judge, time_facts, worst
from tavt_kit.errors import BudgetError
from tavt_kit.reports.views import CandidateView, number

__all__ = ["best_of", "judge_view"]


def judge_view(view: CandidateView, budget: Budget, metric: str, batch: int = 1) -> Verdict:
    """The worst verdict over the limits.

    Args:
        view: The candidate.
        budget: To be kept to.
        metric: Which metric its accuracy is.
        batch: Images at once on the target: a throughput is theirs.

    Raises:
        BudgetError: A limit on what no front records.
    """
    facts = _facts(view, metric, batch)
    for limit in budget:
        # A time or a difference that one candidate lacks is not known; what no candidate has cannot be asked.
        if limit.name not in facts and limit.name not in _RECORDED:
            raise BudgetError(
                f"this front does not record what {limit} limits; give a budget of latency, throughput, flops, drop or "
                f"{', '.join((metric, *view.others))}, or search again with this one"
            )
    return worst(judge(limit, facts) for limit in budget)


_RECORDED = ("flops", "latency", "latency[p50]", "latency[p99]", "throughput", "drop")


def _facts(view: CandidateView, metric: str, batch: int) -> dict[str, Fact]:
    """What its record has, as the search that measured it knew it."""
    found: dict[str, Fact] = {}
    if view.macs is not None:
        found["flops"] = Fact(view.macs, view.macs)
    if view.time is not None:
        predicted = view.time.predicted if view.time.median is None else None
        bounds = {
            name: view.time.bounds(name) if predicted is None else (predicted, predicted)
            for name in ("p50", "p90", "p99")
        }
        found |= time_facts(bounds, batch, predicted=predicted is not None)
    if view.memory is not None:
        found |= _known("memory", view.memory.least, view.memory.most)
        if view.memory.median is None and view.memory.predicted is not None:
            found["memory"] = Fact(view.memory.predicted, view.memory.predicted, predicted=True)
    low, high = number(view.difference, "ci95", 0), number(view.difference, "ci95", 1)
    found |= _known("drop", None if high is None else -high, None if low is None else -low)
    for name in view.others:
        found |= _known(name, number(view.others, name, "ci95", 0), number(view.others, name, "ci95", 1))
    return found | _known(metric, *((view.accuracy.low, view.accuracy.high) if view.accuracy else (None, None)))


def _known(name: str, low: float | None, high: float | None) -> dict[str, Fact]:
    """The fact, where both ends are recorded; else NaN, which decides nothing."""
    return {name: Fact(math.nan if low is None else low, math.nan if high is None else high)}


def best_of(verdicts: list[str], values: list[float | None], *, cheapest: bool) -> int | None:
    """The rule of the search: of what passes, else is predicted to, else may, the most accurate or the cheapest.

    Args:
        verdicts: Of each candidate, by rising cost.
        values: Their accuracies; what has none is never chosen.
        cheapest: With a floor the cheapest is asked for.

    Example:
        >>> best_of(["PASS", "PASS", "INCONCLUSIVE"], [0.7, 0.8, 0.9], cheapest=False)
        1
    """
    for verdict in ("PASS", "PREDICTED", "INCONCLUSIVE"):
        fitting = [(index, value) for index, value in enumerate(values) if value is not None]
        fitting = [(index, value) for index, value in fitting if verdicts[index] == verdict]
        if fitting:
            return fitting[0][0] if cheapest else max(fitting, key=lambda pair: (pair[1], -pair[0]))[0]
    return None

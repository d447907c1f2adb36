"""Does a recorded candidate keep to a budget? The rules of the search, held against what its record has."""

from __future__ import annotations

from tavt_kit.core.budget import Budget, Limit
from tavt_kit.core.verdict import Verdict, judge_prediction, worst
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
    return worst(_judge(view, limit, metric, batch) for limit in budget)


def _judge(view: CandidateView, limit: Limit, metric: str, batch: int) -> Verdict:
    if limit.quantity == "throughput":
        limit = Limit("latency", "p50", "<=", 1e3 * batch / limit.value)
    if limit.quantity == "flops":
        return _by_ends(limit, view.macs, view.macs)
    if limit.quantity == "latency" and limit.statistic in ("p50", "p90", "p99"):
        return _latency(view, limit)
    if limit.quantity == "memory" and view.memory is not None:
        if view.memory.median is None and view.memory.predicted is not None:
            return judge_prediction(limit, view.memory.predicted)
        return _by_ends(limit, view.memory.least, view.memory.most)
    if limit.quantity == "drop":
        low, high = number(view.difference, "ci95", 0), number(view.difference, "ci95", 1)
        return _by_ends(limit, None if high is None else -high, None if low is None else -low)
    if limit.name == metric:
        return _by_ends(limit, *(view.accuracy.low, view.accuracy.high) if view.accuracy else (None, None))
    if limit.name in view.others:
        return _by_ends(limit, number(view.others, limit.name, "ci95", 0), number(view.others, limit.name, "ci95", 1))
    raise BudgetError(
        f"this front does not record what {limit} limits; give a budget of latency, throughput, flops, drop or "
        f"{', '.join((metric, *view.others))}, or search again with this one"
    )


def _latency(view: CandidateView, limit: Limit) -> Verdict:
    if view.time is None:
        return Verdict.INCONCLUSIVE
    if view.time.median is None:
        assert view.time.predicted is not None  # a TimeView has one of both
        return judge_prediction(limit, view.time.predicted)
    return _by_ends(limit, *view.time.bounds(limit.statistic or "p90"))


def _by_ends(limit: Limit, low: float | None, high: float | None) -> Verdict:
    """By both ends of an interval; what is not known decides nothing."""
    if low is None or high is None:
        return Verdict.INCONCLUSIVE
    inside = limit.admits(low), limit.admits(high)
    return Verdict.PASS if all(inside) else Verdict.INCONCLUSIVE if any(inside) else Verdict.FAIL


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

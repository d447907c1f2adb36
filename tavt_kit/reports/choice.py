"""What a front record says: its candidates, the chosen one, the dense model and the other baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.errors import BudgetError
from tavt_kit.reports.judging import best_of
from tavt_kit.reports.views import CandidateView, sequence, text, whole

__all__ = ["FrontView"]


@dataclass(frozen=True, slots=True)
class FrontView:
    """A search's result, typed.

    Args:
        candidates: By rising cost.
        chosen: Index into ``candidates``, or ``None``.
        baselines: Judged by the same protocol, not on the front.
        measured: Finalists that were measured, on the front or not; empty of a search that measured nothing.
        dense: The model without drop, wherever it was found.
        metric: Its name.
        split: Where the accuracies were counted.
        budget: What was asked; empty if it cannot be read.
        verdict: Of the chosen one.
    """

    candidates: tuple[CandidateView, ...]
    chosen: int | None
    baselines: tuple[CandidateView, ...]
    measured: tuple[CandidateView, ...]
    dense: CandidateView | None
    metric: str
    split: str
    budget: Budget
    verdict: str

    @classmethod
    def of(cls, front: Mapping[str, Any]) -> FrontView:
        """From ``front.json``."""
        metric = text(front, "metric") or "top1"
        budget = _budget(front)
        candidates = tuple(CandidateView.of(record, metric) for record in sequence(front, "candidates"))
        baselines = tuple(CandidateView.of(record, metric) for record in sequence(front, "baselines"))
        measured = tuple(CandidateView.of(record, metric) for record in sequence(front, "measured"))
        chosen = _chosen(front, candidates, budget)
        dense = next((view for view in (*baselines, *candidates) if view.origin == "dense"), None)
        verdict = text(front, "verdict") or (candidates[chosen].verdict if chosen is not None else "")
        split = text(front, "split") or "val"
        return cls(candidates, chosen, baselines, measured, dense, metric, split, budget, verdict)

    @property
    def pick(self) -> CandidateView | None:
        """The chosen candidate."""
        return None if self.chosen is None else self.candidates[self.chosen]

    @property
    def tokens(self) -> int:
        """Tokens of the dense model, as far as the schedules tell."""
        found = [view.counts[0] for view in (*self.candidates, *self.baselines) if view.counts]
        return max(found, default=1)

    @property
    def statistic(self) -> str:
        """The quantile of the latency that counts: the budget's, else p90."""
        limits = self.budget.of("latency")
        return next((limit.statistic for limit in limits if limit.statistic in ("p50", "p90", "p99")), "p90")

    def cost(self, view: CandidateView) -> float | None:
        """What a budget is held against: the quantile of the latency, predicted where not measured; else MACs."""
        if not self.is_timed:
            return view.macs
        time = view.time
        if time is None:
            return None
        return time.predicted if time.median is None else time.of_statistic(self.statistic) or time.median

    @property
    def is_timed(self) -> bool:
        """Whether latencies are known, so that they and not multiply-adds are the cost."""
        return any(view.time is not None for view in self.candidates)

    def choosable(self, front: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
        """What may be chosen, by rising cost: the front, and each baseline that none of it beats.

        Args:
            front: The record this view is of.

        Returns:
            Records of candidates, each with the key that ties it to its mark and row.
        """
        pairs = list(zip(self.candidates, sequence(front, "candidates"), strict=True))
        found = [(view, record, f"c{index}") for index, (view, record) in enumerate(pairs)]
        for index, (view, record) in enumerate(zip(self.baselines, sequence(front, "baselines"), strict=True)):
            if not any(self._covers(other, view) for other, _, _ in found):
                found.append((view, record, f"b{index}"))
        known = [one for one in found if one[0].accuracy is not None and self.cost(one[0]) is not None]
        known.sort(key=lambda one: self.cost(one[0]) or 0.0)
        return [(record, key) for _, record, key in known]

    def _covers(self, one: CandidateView, other: CandidateView) -> bool:
        """Whether there is no reason to take ``other``: the same schedule, or dearer and no better."""
        cost, least = self.cost(other), self.cost(one)
        if one.schedule == other.schedule or other.accuracy is None or cost is None:
            return True
        return (
            one.accuracy is not None
            and least is not None
            and least <= cost
            and one.accuracy.value >= other.accuracy.value
        )

    def speedup(self, view: CandidateView | None) -> float | None:
        """Median time of the dense model over the candidate's; None unless both were measured."""
        if view is None or view.time is None or self.dense is None or self.dense.time is None:
            return None
        slow, fast = self.dense.time.median, view.time.median
        return slow / fast if slow and fast else None


def _budget(front: Mapping[str, Any]) -> Budget:
    try:
        return Budget.parse([str(limit) for limit in sequence(front, "budgets")])
    except BudgetError:
        return Budget()


def _chosen(front: Mapping[str, Any], candidates: tuple[CandidateView, ...], budget: Budget) -> int | None:
    """As recorded; otherwise by the rule of the search."""
    index = whole(front, "chosen")
    if index is not None and 0 <= index < len(candidates):
        return index
    recorded = sequence(front, "chosen")
    if recorded:
        return next((i for i, view in enumerate(candidates) if list(view.counts) == list(recorded)), None)
    values = [view.accuracy.value if view.accuracy else None for view in candidates]
    return best_of([view.verdict for view in candidates], values, cheapest=bool(budget.floors))

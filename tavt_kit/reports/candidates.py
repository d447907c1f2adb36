"""What a report knows of models and fronts.

What a record lacks, or has of another type, is None, so that a report never breaks on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.core.configuration import genes_text
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import BudgetError
from tavt_kit.reports import words
from tavt_kit.reports.records import integers, mapping, number, sequence, text, whole

Ends = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of images, a paired difference of two, or a paired ratio of times, with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, record: Any, name: str = "value") -> Estimate | None:
        """From ``{name: 0.84, "n": 512, "ci95": [0.81, 0.87]}``, with ``low`` and ``high`` too, or a plain number."""
        record = {name: record} if isinstance(record, int | float) else record
        if (value := number(record, name)) is None:
            return None
        ends = ("ci95", 0), ("ci95", 1)
        low, high = (number(record, *end) for end in (ends if "ci95" in record else (("low",), ("high",))))
        return cls(value, low, high, whole(record, "n"))

    @property
    def interval(self) -> str:
        """``81.0–87.0``, or nothing."""
        return "" if self.bar is None else "{:.1f}–{:.1f}".format(*self.bar)

    @property
    def span(self) -> str:
        """Of a ratio: ``1.92–2.04``, or nothing."""
        return "" if self.low is None or self.high is None else f"{self.low:.2f}–{self.high:.2f}"

    @property
    def bar(self) -> tuple[float, float] | None:
        """The interval in percent, for a chart."""
        return None if self.low is None or self.high is None else (100 * self.low, 100 * self.high)

    @property
    def points(self) -> str:
        """Of a difference: its interval, ``−2.4 to +1.2``, or nothing."""
        known = self.low is not None and self.high is not None
        return f"{words.points_text(self.low)} to {words.points_text(self.high)}" if known else ""

    def __str__(self) -> str:
        return words.percent_text(self.value)


def points_of(estimate: Estimate | None) -> str:
    """A difference in points; a dash where it is not known."""
    return words.points_text(estimate.value if estimate else None)


def ratio_of(estimate: Estimate | None) -> str:
    """A ratio as ``2.9×``; a dash where it is not known."""
    return words.ratio_text(estimate.value if estimate else None)


class TimeView:
    """Latency in ms, predicted and measured, from the ``latency_ms`` of a candidate; of no record nothing is known."""

    def __init__(self, record: Any) -> None:
        self.predicted, self.median = number(record, "predicted"), number(record, "median")
        self.is_known = self.predicted is not None or self.median is not None
        record = record if self.is_known else {}

        def ends(name: str) -> Ends:
            return number(record, name, 0), number(record, name, 1)

        self.p10, self.p90, self.p99 = (number(record, name) for name in ("p10", "p90", "p99"))
        self.interval95, self.p90_bounds = ends("interval95"), ends("p90_bounds")
        self._bounds = {name: ends(f"{name}_bounds") for name in ("p50", "p90", "p99")}
        steady = mapping([record], 0).get("steady")
        self.steady = steady if isinstance(steady, bool) else None

    def of_statistic(self, statistic: str) -> float | None:
        """The quantile named ``p50``, ``p90`` or ``p99``."""
        return {"p50": self.median, "p90": self.p90, "p99": self.p99}.get(statistic)

    def bounds(self, statistic: str) -> tuple[float, float]:
        """Of the true quantile, as far as they are recorded: it is no less than the first, no more than the second."""
        low, high = self._bounds.get(statistic, (None, None))
        if statistic == "p50" and high is None:
            low, high = self.interval95
        # No quantile from the 50th upwards lies below the median's own bound; that it ends somewhere is not known.
        least = next((value for value in (low, self.interval95[0], self.median) if value is not None), 0.0)
        return least, math.inf if high is None else high

    def doubt_of(self, statistic: str) -> str:
        """``± 2.0 %`` of the quantile: half of its bounds; empty where they are not recorded."""
        value, (low, high) = self.of_statistic(statistic), self.bounds(statistic)
        if not value or not math.isfinite(high):
            return ""
        return f"±\u00a0{words.significant(50 * (high - low) / value, 2)}\u00a0%"

    @property
    def doubt(self) -> str:
        """``± 1.2 %`` of the median: half of its 95 % interval; or ``unsteady``."""
        low, high = self.interval95
        if self.steady is False:
            return "unsteady"
        if not self.median or low is None or high is None:
            return ""
        return f"± {words.significant(50 * (high - low) / self.median, 2)} %"

    def __str__(self) -> str:
        return words.ms_text(self.median)


class CandidateView:
    """A model of ``front.json`` or ``fit.json``: a candidate, or a baseline to hold it against.

    Its key ties its mark to its row: ``c3`` of the candidates, ``b0`` of the baselines.
    """

    def __init__(self, record: Any, metric: str, key: str = "") -> None:
        self.record, self.key = mapping([record], 0), key
        self.macs = number(record, "macs")
        self.accuracy = Estimate.of(record, metric)
        self.time = TimeView(mapping(record, "latency_ms"))
        self.difference = Estimate.of(mapping(record, "against_dense"), "difference")
        self.ratio = Estimate.of(self.record.get("ratio"))
        self.others = mapping(record, "others")
        self.verdict, self.origin = text(record, "verdict") or "", text(record, "origin") or ""
        self.name, self.kind, self.split, self.note = (
            text(record, name) or "" for name in ("name", "kind", "split", "note")
        )
        self.counts = integers(record, "schedule")
        size = integers(record, "image_size")
        self.genes = genes_text(
            len(sequence(record, "schedule")),
            sequence(record, "executed") or None,
            size if len(size) == 2 else None,
            *(text(record, gene) for gene in ("score", "precision", "reduction")),
        )
        self.schedule = counts_text(self.counts) + self.genes
        """``65x4,50x4,33x4``, and what a joint search chose beside the counts."""


class FrontView:
    """A search's result: ``front.json``, typed.

    ``candidates`` are by rising cost, ``baselines`` schedules judged by the same protocol, ``models`` baselines that
    are no schedules, ``measured`` finalists, on the front or not; ``dense`` is the model without drop, wherever it was
    found; ``shown`` has every candidate, then the baselines of other schedules.
    """

    def __init__(self, front: Mapping[str, Any]) -> None:
        self.record, self.metric = front, text(front, "metric") or "top1"
        self.split, self.budget = text(front, "split") or "val", recorded_budget(front)
        self.candidates, self.baselines = self._views("candidates", "c"), self._views("baselines", "b")
        self.models, self.measured = self._views("baseline_models"), self._views("measured")
        self.dense = next((view for view in (*self.baselines, *self.candidates) if view.origin == "dense"), None)
        drawn = {candidate.schedule for candidate in self.candidates}
        self.shown = (*self.candidates, *(view for view in self.baselines if view.schedule not in drawn))
        self.chosen = self._chosen()
        self.pick = None if self.chosen is None else self.candidates[self.chosen]
        self.verdict = text(front, "verdict") or (self.pick.verdict if self.pick else "")
        self.is_timed = any(view.time.is_known for view in self.candidates)  # else multiply-adds are the cost
        self.statistic = quantile_of(self.budget)
        quantile = words.quantile_words(self.statistic)
        self.cost_name = quantile if self.is_timed else "multiply-adds of one image"

    def _views(self, name: str, letter: str = "") -> tuple[CandidateView, ...]:
        records = enumerate(sequence(self.record, name))
        return tuple(CandidateView(record, self.metric, f"{letter}{i}" if letter else "") for i, record in records)

    def _chosen(self) -> int | None:
        """As recorded; otherwise by the rule of the search: of what passes, else is predicted to, else may, the most
        accurate, or with a floor the cheapest."""
        index, views = whole(self.record, "chosen"), self.candidates
        if index is not None and 0 <= index < len(views):
            return index
        if recorded := list(sequence(self.record, "chosen")):
            return next((i for i, view in enumerate(views) if list(view.counts) == recorded), None)
        for verdict in ("PASS", "PREDICTED", "INCONCLUSIVE"):
            fits = {i: view.accuracy.value for i, view in enumerate(views) if view.verdict == verdict and view.accuracy}
            if fits:
                return min(fits) if self.budget.floors else max(fits, key=lambda i: (fits[i], -i))
        return None

    def cost(self, view: CandidateView) -> float | None:
        """What a budget is held against: the quantile of the latency, predicted where not measured; else MACs."""
        if not self.is_timed:
            return view.macs
        time = view.time
        return time.predicted if time.median is None else time.of_statistic(self.statistic) or time.median

    def speedup(self, view: CandidateView | None) -> float | None:
        """Median time of the dense model over the candidate's; None unless both were measured."""
        slow, fast = (None if model is None else model.time.median for model in (self.dense, view))
        return slow / fast if slow and fast else None


def quantile_of(budget: Budget) -> str:
    """The quantile of the latency that a budget is on, else p90."""
    limits = budget.of("latency")
    return next((limit.statistic for limit in limits if limit.statistic in ("p50", "p90", "p99")), "p90")


def recorded_budget(record: Mapping[str, Any]) -> Budget:
    """The ``budgets`` of a record; empty if they cannot be read."""
    try:
        return Budget.parse([str(limit) for limit in sequence(record, "budgets")])
    except BudgetError:
        return Budget()

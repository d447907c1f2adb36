"""A front record, typed: its candidates, the choice, and the choice again under another budget.

What is missing or of another type is None, so that a report never breaks on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tavt_kit.core.budget import Budget, Fact, Verdict, judge, time_facts, worst
from tavt_kit.core.configuration import genes_text
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import BudgetError
from tavt_kit.reports.blocks import Cell
from tavt_kit.reports.records import Found, Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import (
    DASH,
    interval_text,
    ms_text,
    peak_text,
    percent_text,
    points_interval,
    points_text,
    significant,
)

__all__ = [
    "AccuracyView", "CandidateView", "FrontView", "MemoryView", "TimeView", "accuracy_cell", "asked", "best_of",
    "difference_cell", "judge_view", "time_cells", "verdict_cell",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class AccuracyView:
    """A share of images with its interval."""

    value: float
    n: int | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, record: Any, name: str) -> AccuracyView | None:
        """From ``{name: 0.84, "n": 512, "ci95": [0.81, 0.87]}``."""
        value = number(record, name)
        if value is None:
            return None
        return cls(value, whole(record, "n"), number(record, "ci95", 0), number(record, "ci95", 1))

    @property
    def interval(self) -> str:
        """``81.0–87.0``, or nothing."""
        return interval_text(self.low, self.high)

    @property
    def bar(self) -> tuple[float, float] | None:
        """The interval in percent, for a chart."""
        return None if self.low is None or self.high is None else (100 * self.low, 100 * self.high)

    def __str__(self) -> str:
        return percent_text(self.value)


@dataclass(frozen=True, slots=True)
class TimeView:
    """Latency in ms: predicted, measured, and how sure."""

    predicted: float | None
    median: float | None
    p10: float | None
    p90: float | None
    p99: float | None
    low: float | None
    high: float | None
    samples: int | None
    steady: bool | None
    quantiles: Mapping[str, tuple[float | None, float | None]]

    @classmethod
    def of(cls, record: Any) -> TimeView | None:
        """From the ``latency_ms`` of a candidate, or a measurement's own record."""
        if not isinstance(record, Mapping):
            return None
        samples, steady = record.get("samples"), record.get("steady")
        bounds = {name: f"{name}_bounds" for name in ("p50", "p90", "p99")}
        view = cls(
            **{name: number(record, name) for name in ("predicted", "median", "p10", "p90", "p99")},
            low=number(record, "interval95", 0),
            high=number(record, "interval95", 1),
            samples=len(samples) if isinstance(samples, list) else whole(record, "samples"),
            steady=steady if isinstance(steady, bool) else None,
            quantiles={name: (number(record, key, 0), number(record, key, 1)) for name, key in bounds.items()},
        )
        return None if view.predicted is None and view.median is None else view

    def of_statistic(self, statistic: str) -> float | None:
        """The quantile named ``p50``, ``p90`` or ``p99``."""
        return {"p50": self.median, "p90": self.p90, "p99": self.p99}.get(statistic)

    def bounds(self, statistic: str) -> tuple[float, float]:
        """Of the true quantile, as far as they are recorded: it is no less than the first, no more than the second."""
        low, high = self.quantiles.get(statistic, (None, None))
        if statistic == "p50":
            low, high = (self.low, self.high) if high is None else (low, high)
        # No quantile from the 50th upwards lies below the median's own bound; that it ends somewhere is not known.
        least = next((value for value in (low, self.low, self.median) if value is not None), 0.0)
        return least, math.inf if high is None else high

    def doubt_of(self, statistic: str) -> str:
        """``± 2.0 %`` of the quantile: half of its bounds; empty where they are not recorded."""
        value, (low, high) = self.of_statistic(statistic), self.bounds(statistic)
        if not value or not math.isfinite(high):
            return ""
        return f"±\u00a0{significant(50 * (high - low) / value, 2)}\u00a0%"

    def span(self, statistic: str = "p90") -> tuple[float, float] | None:
        """From the 10th percentile to ``statistic`` (p90 where that is the median)."""
        high = self.p99 if statistic == "p99" else self.p90
        return None if self.p10 is None or high is None else (self.p10, high)

    @property
    def half_width(self) -> float | None:
        """Half of the median's 95 % interval, as a share of the median."""
        if self.median is None or self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2 / self.median

    @property
    def doubt(self) -> str:
        """``± 1.2 %`` of the median, or ``unsteady``."""
        if self.steady is False:
            return "unsteady"
        return "" if self.half_width is None else f"± {significant(100 * self.half_width, 2)} %"

    @property
    def lines(self) -> list[str]:
        """What a point of a chart tells."""
        measured = [] if self.median is None else [f"median {self} {self.doubt}, p90 {ms_text(self.p90)}"]
        return measured + ([] if self.predicted is None else [f"predicted {ms_text(self.predicted)}"])

    def __str__(self) -> str:
        return ms_text(self.median)


@dataclass(frozen=True, slots=True)
class MemoryView:
    """Peak memory in bytes, measured in fresh processes; a record of an earlier search may have a prediction alone."""

    predicted: float | None
    median: float | None
    least: float | None
    most: float | None

    @classmethod
    def of(cls, record: Any) -> MemoryView | None:
        """From the ``memory_bytes`` of a candidate; ``None`` where memory was not asked about."""
        view = cls(*(number(record, name) for name in ("predicted", "median", "least", "most")))
        return None if view.predicted is None and view.median is None else view

    def __str__(self) -> str:
        if self.median is None:
            return f"predicted {peak_text(self.predicted)}"
        return peak_text(self.median)


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One candidate of a front.

    ``place`` is that in the run's ``front.json``, where a report's own budget has put it elsewhere.
    """

    counts: tuple[int, ...]
    macs: float | None
    accuracy: AccuracyView | None
    time: TimeView | None
    verdict: str
    origin: str
    difference: Mapping[str, Any]
    others: Mapping[str, Any]
    genes: str = ""
    memory: MemoryView | None = None
    place: int | None = None

    @classmethod
    def of(cls, record: Any, metric: str) -> CandidateView:
        """From an entry of ``front.json``."""
        return cls(
            tuple(count for count in sequence(record, "schedule") if isinstance(count, int)),
            number(record, "macs"),
            AccuracyView.of(record, metric),
            TimeView.of(mapping(record, "latency_ms")),
            text(record, "verdict") or "",
            text(record, "origin") or "",
            mapping(record, "against_dense"),
            mapping(record, "others"),
            genes_text(
                len(sequence(record, "schedule")),
                sequence(record, "executed") or None,
                sequence(record, "image_size") or None,
                text(record, "score"),
                text(record, "precision"),
                text(record, "reduction"),
            ),
            MemoryView.of(mapping(record, "memory_bytes")),
            whole(record, "place"),
        )

    @property
    def schedule(self) -> str:
        """``65x4,50x4,33x4``, and what a joint search chose beside the counts."""
        return counts_text(self.counts) + self.genes


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


def accuracy_cell(accuracy: AccuracyView | None) -> Cell:
    """An accuracy above its interval."""
    return Cell(DASH) if accuracy is None else Cell(str(accuracy), accuracy.interval)


def difference_cell(record: Any) -> Cell:
    """A paired difference in points above its interval.

    Args:
        record: Record of the difference: ``difference`` and ``ci95``.
    """
    ends = number(record, "ci95", 0), number(record, "ci95", 1)
    return Cell(points_text(number(record, "difference")), points_interval(*ends))


def time_cells(time: TimeView | None) -> tuple[Cell, Cell]:
    """The median and p90 of a latency."""
    return (Cell(DASH), Cell(DASH)) if time is None else (Cell(str(time), time.doubt), Cell(ms_text(time.p90)))


def verdict_cell(verdict: str | None) -> Cell:
    """A verdict as a badge."""
    return Cell(verdict or DASH, badge=bool(verdict))


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


def asked(records: Records, budget: Budget) -> Records:
    """The records as if the search had been asked for ``budget``: its front judged and chosen from again.

    Baselines that the search measured beside its front, such as the dense model, may be chosen too.

    Args:
        records: With one search.
        budget: Given to the report.

    Raises:
        BudgetError: There is no front, or it does not record what the budget limits.
    """
    fronts = records.all("front")
    if not fronts:
        raise BudgetError(
            f"a report chooses for {', '.join(budget.texts())} from a measured front, but {', '.join(records.folders)} "
            "has none; run fgvc-kit search first"
        )
    body = _chosen_again(fronts[0].body, budget)
    before, after = FrontView.of(fronts[0].body).pick, FrontView.of(body).pick
    moved = before is None or after is None or before.schedule != after.schedule
    found = {**records.found, "front": (Found(fronts[0].path, body),)}
    found["final"] = tuple(Found(one.path, _final(one.body, budget, moved=moved)) for one in records.all("final"))
    return replace(records, found=found)


def _chosen_again(front: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    view = FrontView.of(front)
    metric, batch = view.metric, whole(front, "target", "batch") or 1
    # Candidates change their places here, but an export picks them by those of the run's front.json.
    entries = [{**record, "place": int(key[1:])} if key[0] == "c" else record for record, key in view.choosable(front)]
    views = [CandidateView.of(record, metric) for record in entries]
    verdicts = [str(judge_view(one, budget, metric, batch)) for one in views]
    judged = [{**record, "verdict": verdict} for record, verdict in zip(entries, verdicts, strict=True)]
    place = best_of(
        verdicts, [one.accuracy.value if one.accuracy else None for one in views], cheapest=bool(budget.floors)
    )

    def judged_anew(name: str) -> list[dict[str, Any]]:
        records = [record for record in sequence(front, name) if isinstance(record, Mapping)]
        found = [judge_view(CandidateView.of(record, metric), budget, metric, batch) for record in records]
        return [{**record, "verdict": str(verdict)} for record, verdict in zip(records, found, strict=True)]

    return {
        **front,
        "budgets": budget.texts(),
        "searched_for": list(sequence(front, "budgets")),
        "candidates": judged,
        "baselines": judged_anew("baselines"),
        "measured": judged_anew("measured"),
        "chosen": place,
        "verdict": "FAIL" if place is None else verdicts[place],
        "undecided": _undecided(views[place], budget)
        if place is not None and verdicts[place] == "INCONCLUSIVE"
        else [],
        "measured_over_budget": None,
    }


def _undecided(pick: CandidateView, budget: Budget) -> list[str]:
    """Where the measured bounds lie on both sides of the line."""
    found = []
    for limit in budget.of("latency"):
        low, high = pick.time.bounds(limit.statistic or "p90") if pick.time else (0.0, math.inf)
        if low <= limit.value < high:
            ends = f"between {ms_text(low)} and {ms_text(high)}" if math.isfinite(high) else f"{ms_text(low)} or more"
            found.append(f"{limit}: the {limit.statistic} is {ends}; measure longer, on a quieter machine")
    return found


def _final(final: Mapping[str, Any], budget: Budget, *, moved: bool) -> dict[str, Any]:
    """The closing table: its verdicts were on the search's budget, and its choice may not be this one."""
    rows = []
    for row in sequence(final, "rows"):
        row = {**mapping({"row": row}, "row"), "verdict": None}
        if moved and row.get("kind") in ("chosen", "chosen-int8"):
            row |= {"kind": "other", "name": f"{row.get('name')} (the search's choice)"}
        rows.append(row)
    return {**final, "rows": rows, "budgets": budget.texts()}

"""Rows of the closing table, and what they say about the choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.errors import BudgetError
from tavt_kit.reports.charts import KINDS, Kind
from tavt_kit.reports.numbers import macs_text, ms_text
from tavt_kit.reports.views import AccuracyView, TimeView, mapping, number, sequence, text, whole

__all__ = ["FinalView", "baseline_rows", "better_baselines", "better_than_chosen", "final_rows"]

_COMPARED = ("dense", "resolution", "layers", "taper", "stages", "other", "int8")


@dataclass(frozen=True, slots=True)
class FinalView:
    """One model of ``final.json``."""

    name: str
    kind: Kind
    split: str
    accuracy: AccuracyView | None
    macs: float | None
    time: TimeView | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    verdict: str
    note: str


def final_rows(final: Mapping[str, Any]) -> tuple[FinalView, ...]:
    """The rows of ``final.json``; none of an empty record."""
    metric = text(final, "metric") or "top1"
    return tuple(_row(record, metric) for record in sequence(final, "rows") if isinstance(record, Mapping))


def _row(record: Mapping[str, Any], metric: str) -> FinalView:
    ratio = number(record, "ratio")
    return FinalView(
        name=text(record, "name") or "?",
        kind=_kind(text(record, "kind")),
        split=text(record, "split") or "",
        accuracy=AccuracyView.of(record, metric),
        macs=number(record, "macs"),
        time=TimeView.of(mapping(record, "latency_ms")),
        ratio=number(record, "ratio", "value") if ratio is None else ratio,
        ratio_low=number(record, "ratio", "low"),
        ratio_high=number(record, "ratio", "high"),
        verdict=text(record, "verdict") or "",
        note=text(record, "note") or "",
    )


def _kind(name: str | None) -> Kind:
    return next((kind for kind in KINDS if kind == name), "other")


def better_baselines(final: Mapping[str, Any]) -> list[str]:
    """A sentence for each baseline that answers what was asked better than the choice does.

    That is one as accurate and as fast; and, where the search was for the most accurate model within a budget, one that
    is more accurate and keeps to the same budget. By the plain figures; where intervals overlap it says so.

    Args:
        final: The record of ``final.json``.
    """
    rows, sentences = final_rows(final), []
    by_accuracy = not _has_floor(final)
    for kind, ours in (("chosen", "the chosen model"), ("chosen-int8", "the chosen model in INT8")):
        chosen = next((row for row in rows if row.kind == kind and _is_complete(row)), None)
        if chosen is None:
            continue
        # A quantised choice is compared with the quantised baseline; the others were compared with the f32 choice.
        baselines = _COMPARED if kind == "chosen" else ("int8",)
        sentences += [
            _sentence(row, chosen, ours)
            for row in rows
            if row.kind in baselines and row.split == chosen.split and _beats(row, chosen, by_accuracy)
        ]
    return sentences


def _has_floor(final: Mapping[str, Any]) -> bool:
    """Whether the cheapest model above a floor was asked for, not the best below a ceiling."""
    try:
        return bool(Budget.parse([str(limit) for limit in sequence(final, "budgets")]).floors)
    except BudgetError:
        return False


def _is_complete(row: FinalView) -> bool:
    return row.accuracy is not None and _cost(row)[0] is not None


def _cost(row: FinalView) -> tuple[float | None, str]:
    """The median time, or the multiply-adds where nothing was timed; and as text."""
    if row.time is None:
        return row.macs, f"{macs_text(row.macs)} multiply-adds"
    return row.time.median, ms_text(row.time.median)


def _beats(row: FinalView, chosen: FinalView, by_accuracy: bool) -> bool:
    if not _is_complete(row) or (row.time is None) != (chosen.time is None):
        return False
    (cost, _), (ours, _) = _cost(row), _cost(chosen)
    assert row.accuracy and chosen.accuracy and cost is not None and ours is not None
    if row.accuracy.value >= chosen.accuracy.value and cost <= ours:
        return True
    return by_accuracy and row.verdict == "PASS" and row.accuracy.value > chosen.accuracy.value


def _sentence(row: FinalView, chosen: FinalView, ours: str) -> str:
    (cost, told), (least, least_told) = _cost(row), _cost(chosen)
    assert row.accuracy and chosen.accuracy and cost is not None and least is not None
    sure = row.accuracy.low is not None and row.accuracy.low > chosen.accuracy.value
    doubt = "" if sure else "; the accuracies are within each other's intervals"
    within = " and keeps to the budget" if cost > least else ""
    return (
        f"A baseline does better here: {row.name} scores {row.accuracy} at {told}{within}, {ours} "
        f"{chosen.accuracy} at {least_told} on the {row.split} split{doubt}."
    )


def baseline_rows(front: Mapping[str, Any]) -> tuple[FinalView, ...]:
    """The baselines in ``front.json`` that are no schedules, one row for each, in the order recorded."""
    return final_rows({"metric": text(front, "metric"), "rows": sequence(front, "baseline_models")})


def better_than_chosen(front: Mapping[str, Any]) -> list[str]:
    """A sentence for each that answers what was asked better than the chosen candidate does."""
    chosen = whole(front, "chosen")
    candidates = sequence(front, "candidates")
    if chosen is None or not 0 <= chosen < len(candidates):
        return []
    pick = {**mapping(candidates[chosen]), "name": "chosen", "kind": "chosen", "split": text(front, "split")}
    rows = [pick, *sequence(front, "baseline_models")]
    return better_baselines({"metric": text(front, "metric"), "budgets": sequence(front, "budgets"), "rows": rows})

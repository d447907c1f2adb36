"""Rows of the closing table, and what they say about the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.reports.front_chart import KINDS, Kind
from tavt_kit.reports.numbers import ms_text, ratio_text
from tavt_kit.reports.views import AccuracyView, TimeView, mapping, number, sequence, text

__all__ = ["FinalView", "better_baselines", "final_rows"]


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


def better_baselines(rows: Sequence[FinalView]) -> list[str]:
    """A sentence for each baseline that is at least as accurate and at least as fast as what was chosen.

    By the plain figures: where an interval would decide otherwise the sentence says that it is not sure.
    """
    sentences = []
    for kind, ours in (("chosen", "the chosen model"), ("chosen-int8", "the chosen model in INT8")):
        chosen = next((row for row in rows if row.kind == kind), None)
        if chosen is None or chosen.accuracy is None or chosen.time is None or chosen.time.median is None:
            continue
        # INT8 against INT8: a quantised baseline that beats the f32 choice says nothing against the drop.
        rivals = ("int8",) if kind == "chosen-int8" else ("dense", "resolution", "taper", "other", "int8")
        sentences += [_sentence(row, chosen, ours) for row in rows if row.kind in rivals and _beats(row, chosen)]
    return sentences


def _beats(row: FinalView, chosen: FinalView) -> bool:
    if row.accuracy is None or chosen.accuracy is None or row.split != chosen.split:
        return False
    if row.time is None or row.time.median is None or chosen.time is None or chosen.time.median is None:
        return False
    return row.accuracy.value >= chosen.accuracy.value and row.time.median <= chosen.time.median


def _sentence(row: FinalView, chosen: FinalView, ours: str) -> str:
    assert row.accuracy is not None and chosen.accuracy is not None and row.time is not None and chosen.time is not None
    sure = row.accuracy.low is not None and row.accuracy.low > chosen.accuracy.value
    doubt = "" if sure else "; the accuracies are within each other's intervals"
    faster = ratio_text((chosen.time.median or 1.0) / (row.time.median or 1.0))
    return (
        f"A baseline does better here: {row.name} keeps {row.accuracy} at {ms_text(row.time.median)} ({faster} the "
        f"speed), {ours} {chosen.accuracy} at {ms_text(chosen.time.median)} on the {row.split} split{doubt}."
    )

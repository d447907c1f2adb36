"""A report's points as rows: one list for ``report.csv`` and ``report.json``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from tavt_kit.core.part_names import part_words
from tavt_kit.errors import TavtError
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.rows import final_rows
from tavt_kit.reports.sections.layers import latency_table, layer_views
from tavt_kit.reports.views import AccuracyView, TimeView, number

__all__ = ["COLUMNS", "csv_text", "rows_of"]

COLUMNS = (
    "run", "table", "name", "schedule", "chosen", "macs", "split", "metric", "value", "n", "low", "high",
    "points_against_dense", "predicted_ms", "median_ms", "p10_ms", "p90_ms", "p90_low_ms", "p90_high_ms", "p99_ms",
    "steady", "speed", "verdict",
)  # fmt: skip
"""Of each row. ``table`` is ``front``, ``baseline``, ``final`` or ``layers``, where ``name`` is a part of the model;
accuracies are fractions, what is not known empty."""


def rows_of(records: Records, run: str) -> list[dict[str, Any]]:
    """Everything with figures: the front, its baselines, the closing table, the parts of the dense and chosen model.

    Args:
        records: Of one run.
        run: What it is called.
    """
    front, rows = records.first("front"), []
    if front:
        view = FrontView.of(front)
        listed = [("front", one) for one in view.candidates] + [("baseline", one) for one in view.baselines]
        for table, one in listed:
            rows.append(
                _row(run, table, one.origin, one.accuracy, one.time)
                | {
                    "schedule": one.schedule,
                    "chosen": one is view.pick,
                    "macs": None if one.macs is None else int(one.macs),
                    "split": view.split,
                    "metric": view.metric,
                    "points_against_dense": _points(number(one.difference, "difference")),
                    "speed": view.speedup(one),
                    "verdict": one.verdict or None,
                }
            )
    final = records.first("final")
    metric = final.get("metric", "top1")
    for line in final_rows(final):
        rows.append(
            _row(run, "final", line.name, line.accuracy, line.time)
            | {
                "chosen": line.kind in ("chosen", "chosen-int8"),
                "macs": None if line.macs is None else int(line.macs),
                "split": line.split,
                "metric": metric,
                "speed": line.ratio,
                "verdict": line.verdict or None,
            }
        )
    return rows + _layer_rows(records, run)


def _layer_rows(records: Records, run: str) -> list[dict[str, Any]]:
    """The time by layer; none where there is no latency table, or none that can be read, which the page says."""
    try:
        table = latency_table(records)
    except TavtError:
        return []
    return [
        _row(run, "layers", part_words(name), None, None)
        | {"schedule": view.schedule, "chosen": view.name == "chosen", "predicted_ms": ms}
        for view in (() if table is None else layer_views(records, table))
        for name, ms in view.parts.items()
    ]


def _row(run: str, table: str, name: str, accuracy: AccuracyView | None, time: TimeView | None) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    found |= {"run": run, "table": table, "name": name}
    if accuracy is not None:
        found |= {"value": accuracy.value, "n": accuracy.n, "low": accuracy.low, "high": accuracy.high}
    if time is not None:
        low, high = time.quantiles.get("p90", (None, None))
        found |= {"predicted_ms": time.predicted, "median_ms": time.median, "p10_ms": time.p10, "p90_ms": time.p90}
        found |= {"p90_low_ms": low, "p90_high_ms": high, "p99_ms": time.p99, "steady": time.steady}
    return found


def _points(difference: float | None) -> float | None:
    return None if difference is None else round(100 * difference, 6)


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV with a head; what a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

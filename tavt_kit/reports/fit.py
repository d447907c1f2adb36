"""``fit.json`` on the page: what to ship, and everything that was measured beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Headline, KeyFigure, Text
from tavt_kit.reports.records import mapping, number, objects, text, whole


def closing_table(fit: Mapping[str, Any]) -> dict[str, Any]:
    """The rows as ``final.json`` has them, judged on val; what test says stands in the notes."""
    recommended, rows = whole(fit, "recommended"), objects(fit, "rows")
    dense = number(rows[0], "latency_ms", "median") if rows else None
    found = []
    for index, row in enumerate(rows):
        size, precision = mapping(row, "configuration").get("image_size"), text(row, "configuration", "precision")
        plain = "front" if row.get("kind") == "ours" else "resolution" if size else "int8" if precision else "dense"
        test, median = number(row, "test", "top1"), number(row, "latency_ms", "median")
        notes = ("recommended" if index == recommended else "", f"test {words.percent_text(test)}" if test else "")
        found.append(
            {
                **row,
                **mapping(row, "val"),
                "split": "val",
                "kind": "chosen" if index == recommended else plain,
                "ratio": dense / median if dense and median else None,
                "note": ", ".join(filter(None, notes)),
            }
        )
    return {**fit, "metric": "top1", "rows": found}


def fit_headline(fit: Mapping[str, Any]) -> Headline:
    """What to ship and why, in the words of the record."""
    rows, index = objects(fit, "rows"), whole(fit, "recommended")
    said = Text.of(text(fit, "advice") or "Nothing was measured.")
    if index is None or not 0 <= index < len(rows):
        return Headline("FAIL", said)
    row, dense = rows[index], rows[0]
    figures = [_accuracy(row, split) for split in ("val", "test") if number(row, split, "top1") is not None]
    p90, median, slow = (
        number(one, "latency_ms", key) for one, key in ((row, "p90"), (row, "median"), (dense, "median"))
    )
    if p90 is not None:
        figures.insert(0, KeyFigure(words.ms_text(p90), "p90", f"budget {' and '.join(map(str, fit['budgets']))}"))
    if median and slow:
        figures.append(KeyFigure(words.ratio_text(slow / median), "speed vs dense f32", f"dense {words.ms_text(slow)}"))
    return Headline(text(row, "verdict") or "INCONCLUSIVE", said, (), tuple(figures))


def _accuracy(row: Mapping[str, Any], split: str) -> KeyFigure:
    low, high = (number(row, split, "ci95", end) for end in (0, 1))
    interval = "" if low is None or high is None else f"95 % {100 * low:.1f} to {100 * high:.1f}"
    count = whole(row, split, "n")
    small = ", ".join(filter(None, (interval, words.n_text(count) if count else "")))
    return KeyFigure(words.percent_text(number(row, split, "top1")), f"top-1 on {split}", small)

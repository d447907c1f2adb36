"""The baselines of a search that are no schedules of its model, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.reports.blocks import Block, Cell, Column, Table, Text
from tavt_kit.reports.numbers import DASH, macs_text, ms_text, points_text, ratio_text
from tavt_kit.reports.rows import FinalView, baseline_rows
from tavt_kit.reports.views import number, sequence, text
from tavt_kit.reports.words import metric_words

__all__ = ["baseline_blocks"]


def baseline_blocks(front: Mapping[str, Any]) -> list[Block]:
    """The table, and why some are not in it; nothing where none was asked for."""
    blocks: list[Block] = []
    rows = baseline_rows(front)
    if rows:
        differences = [number(record, "against_dense", "difference") for record in sequence(front, "baseline_models")]
        columns = (
            Column("Baseline", numeric=False),
            Column("MACs", hint="of one image"),
            Column(metric_words(text(front, "metric") or "top1"), hint=f"{text(front, 'split') or 'val'}, 95 %"),
            Column("Against dense", hint="points, paired"),
            Column("Median", hint="95 %"),
            Column("p90"),
            Column("Speed", hint="dense = 1, paired"),
            Column("Verdict", numeric=False),
        )
        cells = tuple(_row(row, difference) for row, difference in zip(rows, differences, strict=True))
        caption = "Other ways to the same budget, measured among the finalists of the search."
        blocks.append(Table(columns, cells, caption))
    for one in sequence(front, "baselines_left_out"):
        blocks.append(Text.of(f"Left out: {text(one, 'name')}, because {text(one, 'reason')}.", kind="note"))
    return blocks


def _row(row: FinalView, difference: float | None) -> tuple[Cell, ...]:
    accuracy, time = row.accuracy, row.time
    return (
        Cell(row.name, row.note),
        Cell(macs_text(row.macs)),
        Cell(DASH) if accuracy is None else Cell(str(accuracy), accuracy.interval),
        Cell(points_text(difference)),
        Cell(DASH) if time is None else Cell(ms_text(time.median), time.doubt),
        Cell(DASH) if time is None else Cell(ms_text(time.p90)),
        Cell(ratio_text(row.ratio)),
        Cell(row.verdict or DASH, badge=bool(row.verdict)),
    )

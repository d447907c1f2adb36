"""The closing table: the choice beside the baselines, on images that nothing was selected on."""

from __future__ import annotations

from collections.abc import Sequence

from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.charts import Frame, Mark, front_chart, front_legend
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import DASH, macs_text, ms_text, n_text, percent_text, ratio_text
from tavt_kit.reports.rows import FinalView, better_baselines, final_rows
from tavt_kit.reports.sections.front_marks import span
from tavt_kit.reports.views import mapping, text
from tavt_kit.reports.words import metric_words, target_words

__all__ = ["final_section"]

_ANCHOR, _TITLE = "final", "Against the baselines"


def final_section(records: Records) -> Section | Missing:
    """The table of ``final.json``."""
    final = records.first("final")
    rows = final_rows(final)
    if not rows:
        return Missing("The choice against its baselines, on held-out images", "fgvc-kit demo")
    metric = metric_words(text(final, "metric") or "top1")
    splits = sorted({row.split for row in rows if row.split})
    blocks: list[Block] = []
    marks = [mark for row in rows if (mark := _mark(row, metric))]
    if len(marks) > 1 and len(splits) == 1:
        blocks.append(_figure(marks, metric, splits[0]))
    blocks.append(_table(rows, metric, splits, target_words(mapping(final, "target"))))
    if not better_baselines(final) and any(row.kind == "chosen" for row in rows):
        blocks.append(Text.of("No baseline answers the request better than the chosen model.", kind="note"))
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def _mark(row: FinalView, metric: str) -> Mark | None:
    accuracy, time = row.accuracy, row.time
    if accuracy is None or time is None or time.median is None:
        return None
    y_bar = None if accuracy.low is None or accuracy.high is None else (100 * accuracy.low, 100 * accuracy.high)
    interval = f" (95 % {accuracy.interval})" if accuracy.interval else ""
    lines = [row.name, f"{accuracy} {metric}{interval}", f"median {ms_text(time.median)} {time.doubt}", row.note]
    return Mark(
        row.kind, row.name, time.median, 100 * accuracy.value, span(time), y_bar, lines=tuple(filter(None, lines))
    )


def _figure(marks: Sequence[Mark], metric: str, split: str) -> Figure:
    frame = Frame(x_title="latency, ms", y_title=f"{metric} on {split}, %")
    name = f"{metric} on {split} against median latency"
    # No staircase: these models are not one search's front.
    return Figure(
        name,
        front_chart(marks, frame, name),
        "Marks stand at the median, their bars run from p10 to p90; upright bars are the 95 % interval.",
        front_legend(marks),
    )


def _table(rows: Sequence[FinalView], metric: str, splits: Sequence[str], where: str) -> Table:
    columns = (
        Column("Model", numeric=False),
        Column(metric, hint="95 %"),
        Column("MACs", hint="of one image"),
        Column("Median", hint="95 %"),
        Column("p90"),
        Column("Speed", hint="dense = 1"),
        Column("Verdict", numeric=False),
    )
    split = splits[0] if len(splits) == 1 else ""
    on = f"on the {split} split" if split else "on the splits named"
    counts = {row.accuracy.n for row in rows if row.accuracy is not None}
    n = f" ({n_text(counts.pop() or 0)})" if len(counts) == 1 and None not in counts else ""
    measured = f", measured on {where}" if where else ""
    strong = frozenset(index for index, row in enumerate(rows) if row.kind in ("chosen", "chosen-int8"))
    return Table(columns, tuple(_row(row, split) for row in rows), f"Accuracy {on}{n}{measured}.", strong)


def _row(row: FinalView, split: str) -> tuple[Cell, ...]:
    small = ", ".join(part for part in (row.note, row.split if not split else "") if part)
    ratio = ""
    if row.ratio_low is not None and row.ratio_high is not None:
        ratio = f"{row.ratio_low:.2f}–{row.ratio_high:.2f}"
    time = row.time
    return (
        Cell(row.name, small),
        Cell(DASH) if row.accuracy is None else Cell(percent_text(row.accuracy.value), row.accuracy.interval),
        Cell(macs_text(row.macs)),
        Cell(DASH) if time is None else Cell(ms_text(time.median), time.doubt),
        Cell(DASH) if time is None else Cell(ms_text(time.p90)),
        Cell(ratio_text(row.ratio), ratio),
        Cell(row.verdict or DASH, badge=bool(row.verdict)),
    )

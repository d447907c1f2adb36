"""The front: its chart, and a table of every candidate."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.charts import Frame, Mark, front_chart, front_legend, schedule_bar
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.gene_ablation import ablation_text
from tavt_kit.reports.numbers import DASH, macs_text, ms_text, peak_text, percent_text, points_text, ratio_text
from tavt_kit.reports.rows import baseline_rows, final_rows
from tavt_kit.reports.sections.baselines import baseline_blocks
from tavt_kit.reports.sections.front_marks import Axes, axes_of, cloud_of, marks_of
from tavt_kit.reports.sections.picker import picker_blocks
from tavt_kit.reports.views import CandidateView, MemoryView, TimeView, number, sequence, text, whole
from tavt_kit.reports.words import limit_words, metric_words, plural

__all__ = ["front_section", "front_table"]


def front_section(records: Records) -> Section | Missing:
    """What the search found."""
    front = records.first("front")
    if not front:
        return Missing("The front of a search", "fgvc-kit search MODEL --budget latency=20ms")
    view = FrontView.of(front)
    blocks: list[Block] = picker_blocks(front, view, records.all("front")[0].path.parent)
    marks = marks_of(view, (*baseline_rows(front), *final_rows(records.first("final"))))
    if marks:
        blocks.append(_figure(view, marks, cloud_of(records, view, axes_of(view))))
    if view.candidates:
        blocks.append(front_table(view))
        blocks += _over_budget(view)
    else:
        blocks.append(Text.of("The search found no candidate.", kind="warning"))
    blocks += [Text.of(ablation_text(one)) for one in sequence(front, "gene_ablation")]
    blocks += baseline_blocks(front)
    if told := _told(front, view):
        blocks.append(Text.of(told, kind="note"))
    return Section("front", "The front", tuple(blocks))


def _told(front: Mapping[str, Any], view: FrontView) -> str:
    """How the search went, in a few sentences."""
    sentences = []
    evaluated, volume = whole(front, "evaluations"), number(front, "hypervolume")
    if evaluated is not None:
        sentences.append(f"{plural(evaluated, 'schedule')} evaluated on the {view.split} split")
    if stopped := text(front, "stopped_because"):
        sentences.append(f"the search ended because {stopped}")
    if view.measured:
        sentences.append(f"{plural(len(view.measured), 'schedule')} measured end to end, the dense model among them")
    if over := whole(front, "measured_over_budget"):
        sentences.append(f"{plural(over, 'schedule')} predicted within the budget measured above it")
    if (error := _prediction_error(view)) is not None:
        sentences.append(f"the layer table predicted {error} than was measured (median)")
    if volume is not None:
        sentences.append(f"hypervolume {volume:.4f} (cost relative to dense, reference point 1, 0)")
    return "; ".join(sentences) + "." if sentences else ""


def _prediction_error(view: FrontView) -> str | None:
    """``3.1 % more`` or ``less``: the median over all that was both predicted and measured."""
    times = [one.time for one in (*view.candidates, *view.baselines) if one.time is not None]
    errors = [time.predicted / time.median - 1 for time in times if time.predicted and time.median]
    if not errors:
        return None
    error = median(errors)
    return f"{percent_text(abs(error))} {'more' if error > 0 else 'less'}"


def _figure(view: FrontView, marks: list[Mark], cloud: list[tuple[float, float]]) -> Figure:
    axes = axes_of(view)
    limit = next(iter(view.budget.of("latency" if axes.measured else "flops")), None)
    floor = next(iter(view.budget.of(view.metric)), None)
    scale = 1.0 if axes.measured else 1e-9
    frame = Frame(
        x_title="latency, ms" if axes.measured else "multiply-adds, G",
        y_title=f"{metric_words(view.metric)} on {view.split}, %",
        ceiling=limit.value * scale if limit else None,
        ceiling_text=f"budget {limit_words(limit)}" if limit else "",
        floor=100 * floor.value if floor else None,
        floor_text=f"asked for {limit_words(floor)}" if floor else "",
    )
    quantile = "p99" if axes.statistic == "p99" else "p90"
    times = f"Marks stand at the median, their bars run from p10 to {quantile}" if axes.measured else ""
    judged = f"; the budget is on the {axes.statistic}" if times and limit else ""
    caption = (
        f"{times}{judged}{'. ' if times else ''}Upright bars are the 95 % interval of each accuracy alone: all "
        "candidates saw the same images, so their differences are surer than the bars suggest."
    )
    name = f"{metric_words(view.metric)} against {'latency' if axes.measured else 'multiply-adds'}"
    return Figure(name, front_chart(marks, frame, name, cloud), caption, front_legend(marks, bool(cloud)))


def front_table(view: FrontView) -> Table:
    """Every candidate by rising cost, then the baselines that are not among them."""
    axes = axes_of(view)
    rows = [(candidate, f"c{index}") for index, candidate in enumerate(view.candidates)]
    drawn = {candidate.schedule for candidate in view.candidates}
    rows += [(base, f"b{i}") for i, base in enumerate(view.baselines) if base.schedule not in drawn]
    strong = frozenset() if view.chosen is None else frozenset({view.chosen})
    return Table(
        _columns(view),
        tuple(_row(view, candidate, axes) for candidate, _ in rows),
        f"Candidates by rising cost{', then baselines' if len(rows) > len(view.candidates) else ''}; "
        f"{'the chosen one is marked.' if strong else 'none was chosen.'}",
        strong,
        tuple(key for _, key in rows),
    )


def _over_budget(view: FrontView) -> list[Block]:
    """Finalists that were measured above the budget and are in no other table."""
    shown = {one.schedule for one in (*view.candidates, *view.baselines)}
    over = [one for one in view.measured if one.verdict == "FAIL" and one.schedule not in shown]
    if not over:
        return []
    rows = tuple(_row(view, one, axes_of(view)) for one in over)
    return [Table(_columns(view), rows, "Measured too, over the budget and not on the front.")]


def _columns(view: FrontView) -> tuple[Column, ...]:
    columns = [
        Column("Tokens kept after each layer", numeric=False),
        Column("MACs", hint="of one image"),
        Column(metric_words(view.metric), hint=f"{view.split}, 95 %"),
        Column("Against dense", hint="points, paired"),
    ]
    if axes_of(view).measured:
        columns += [
            Column("Predicted"),
            Column("Median", hint="95 %"),
            Column("p90"),
            Column("Speed", hint="dense = 1"),
        ]
    if _knows_memory(view):
        columns.append(Column("Memory", hint="peak, median of fresh processes"))
    return (*columns, Column("Verdict", numeric=False), Column("Origin", numeric=False))


def _row(view: FrontView, candidate: CandidateView, axes: Axes) -> tuple[Cell, ...]:
    accuracy, dense = candidate.accuracy, view.dense
    share = ""
    if candidate.macs and dense is not None and dense.macs:
        share = f"{percent_text(candidate.macs / dense.macs, 0)} of dense"
    bar = schedule_bar(candidate.counts, view.tokens, f"tokens: {candidate.schedule}") if candidate.counts else None
    cells = [
        Cell(candidate.schedule or DASH, picture=bar, code=True),
        Cell(macs_text(candidate.macs), share),
        Cell(DASH) if accuracy is None else Cell(str(accuracy), accuracy.interval),
        _difference(candidate),
    ]
    if axes.measured:
        cells += _time_cells(candidate.time, view.speedup(candidate))
    if _knows_memory(view):
        cells.append(_memory_cell(candidate.memory))
    cells += [Cell(candidate.verdict or DASH, badge=bool(candidate.verdict)), Cell(candidate.origin or DASH)]
    return tuple(cells)


def _knows_memory(view: FrontView) -> bool:
    return any(one.memory is not None for one in view.candidates)


def _memory_cell(memory: MemoryView | None) -> Cell:
    if memory is None:
        return Cell(DASH)
    if memory.median is None:  # of a search that still predicted it
        return Cell(DASH, str(memory))
    return Cell(peak_text(memory.median), f"{peak_text(memory.least)} to {peak_text(memory.most)}")


def _time_cells(time: TimeView | None, speedup: float | None) -> list[Cell]:
    if time is None:
        return [Cell(DASH)] * 4
    return [
        Cell(ms_text(time.predicted)),
        Cell(ms_text(time.median), time.doubt),
        Cell(ms_text(time.p90), time.doubt_of("p90")),
        Cell(ratio_text(speedup)),
    ]


def _difference(candidate: CandidateView) -> Cell:
    value = number(candidate.difference, "difference")
    low, high = number(candidate.difference, "ci95", 0), number(candidate.difference, "ci95", 1)
    small = f"{points_text(low)} to {points_text(high)}" if low is not None and high is not None else ""
    return Cell(points_text(value), small)

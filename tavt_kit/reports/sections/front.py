"""The front: its chart, and a table of every candidate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.front_chart import Frame, Kind, Mark, front_chart, front_legend
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import DASH, macs_text, ms_text, percent_text, points_text, ratio_text
from tavt_kit.reports.rows import FinalView, final_rows
from tavt_kit.reports.schedule_bar import schedule_bar
from tavt_kit.reports.views import CandidateView, TimeView, number, text, whole
from tavt_kit.reports.words import limit_words, metric_words, plural

__all__ = ["front_section", "span"]

_KIND_OF_ORIGIN: dict[str, Kind] = {
    "dense": "dense",
    "taper": "taper",
    "stages": "stages",
    "resolution": "resolution",
    "int8": "int8",
}


def front_section(records: Records) -> Section | Missing:
    """What the search found."""
    front = records.first("front")
    if not front:
        return Missing("The front of a search", "fgvc-kit search MODEL --budget latency=20ms")
    view = FrontView.of(front)
    blocks: list[Block] = []
    marks = _marks(view, final_rows(records.first("final")))
    if marks:
        blocks.append(_figure(view, marks, _cloud(records, view, _axes(view))))
    if view.candidates:
        blocks.append(_table(view))
    else:
        blocks.append(Text.of("The search found no candidate.", kind="warning"))
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


def _cloud(records: Records, view: FrontView, axes: _Axes) -> list[tuple[float, float]]:
    """What else was evaluated, from ``candidates.csv``: (cost, accuracy in percent)."""
    shown = {candidate.schedule for candidate in (*view.candidates, *view.baselines)}
    points = []
    for row in records.candidates:
        cost = _float(row.get("predicted_ms" if axes.measured else "macs"))
        value = _float(row.get("value"))
        if cost is not None and value is not None and row.get("schedule") not in shown:
            points.append((cost if axes.measured else cost / 1e9, 100 * value))
    return points


def _float(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class _Axes:
    """Which quantities the chart shows."""

    measured: bool
    statistic: str


def _axes(view: FrontView) -> _Axes:
    return _Axes(any(candidate.time is not None for candidate in view.candidates), view.statistic)


def _marks(view: FrontView, final: Iterable[FinalView]) -> list[Mark]:
    axes = _axes(view)
    marks = [
        mark
        for index, candidate in enumerate(view.candidates)
        if (mark := _mark(candidate, _kind(view, index), _name(view, index), axes, f"c{index}"))
    ]
    drawn = {candidate.counts for candidate in view.candidates}
    marks += [
        mark
        for index, base in enumerate(view.baselines)
        if base.counts not in drawn
        and (mark := _mark(base, _KIND_OF_ORIGIN.get(base.origin, "other"), "", axes, f"b{index}"))
    ]
    # Figures of another split do not belong on the same axis.
    marks += [
        mark for row in final if row.split == view.split and row.kind != "chosen" and (mark := _final_mark(row, axes))
    ]
    return marks


def _kind(view: FrontView, index: int) -> Kind:
    return "chosen" if index == view.chosen else "dense" if view.candidates[index].origin == "dense" else "front"


def _name(view: FrontView, index: int) -> str:
    if index == view.chosen:
        return "chosen"
    return "dense" if view.candidates[index].origin == "dense" else ""


def _mark(candidate: CandidateView, kind: Kind, name: str, axes: _Axes, key: str) -> Mark | None:
    accuracy, time = candidate.accuracy, candidate.time
    if accuracy is None:
        return None
    y_bar = None if accuracy.low is None or accuracy.high is None else (100 * accuracy.low, 100 * accuracy.high)
    x, x_bar, predicted = _cost(candidate, axes)
    if x is None:
        return None
    lines = [
        {"chosen": "chosen"}.get(kind, candidate.origin or kind),
        candidate.schedule,
        f"{accuracy}" + (f" (95 % {accuracy.interval})" if accuracy.interval else ""),
        *(_time_lines(time) if time is not None else ()),
        f"{macs_text(candidate.macs)} multiply-adds",
        candidate.verdict,
    ]
    label = name or ("dense" if kind == "dense" else "")
    measured = not axes.measured or (time is not None and time.median is not None)
    said = tuple(filter(None, lines))
    return Mark(kind, label, x, 100 * accuracy.value, x_bar, y_bar, predicted, measured, said, key)


def _cost(candidate: CandidateView, axes: _Axes) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """Place on the x axis, its bar from the 10th percentile to the one the budget is on, and the prediction.

    The mark stands at the median, because that is what the latency table predicts.
    """
    time = candidate.time
    if not axes.measured:
        return (None if candidate.macs is None else candidate.macs / 1e9), None, None
    if time is None or time.median is None:
        return (None if time is None else time.predicted), None, None
    return time.median, span(time, axes.statistic), time.predicted


def span(time: TimeView, statistic: str = "p90") -> tuple[float, float] | None:
    """From the 10th percentile to ``statistic`` (p90 where that is the median)."""
    high = time.p99 if statistic == "p99" else time.p90
    return None if time.p10 is None or high is None else (time.p10, high)


def _time_lines(time: TimeView) -> list[str]:
    lines = []
    if time.median is not None:
        lines.append(f"median {ms_text(time.median)} {time.doubt}, p90 {ms_text(time.p90)}")
    if time.predicted is not None:
        lines.append(f"predicted {ms_text(time.predicted)}")
    return lines


def _final_mark(row: FinalView, axes: _Axes) -> Mark | None:
    if row.accuracy is None:
        return None
    if axes.measured:
        x = row.time.median if row.time else None
    else:
        x = None if row.macs is None else row.macs / 1e9
    if x is None:
        return None
    accuracy = row.accuracy
    bar = None if accuracy.low is None or accuracy.high is None else (100 * accuracy.low, 100 * accuracy.high)
    lines = (row.name, str(accuracy), *(_time_lines(row.time) if row.time else ()), row.note)
    x_bar = span(row.time, axes.statistic) if row.time and axes.measured else None
    return Mark(row.kind, row.name, x, 100 * accuracy.value, x_bar, bar, lines=tuple(filter(None, lines)))


def _figure(view: FrontView, marks: list[Mark], cloud: list[tuple[float, float]]) -> Figure:
    axes = _axes(view)
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


def _table(view: FrontView) -> Table:
    axes = _axes(view)
    rows = [(candidate, f"c{index}") for index, candidate in enumerate(view.candidates)]
    drawn = {candidate.counts for candidate in view.candidates}
    rows += [(base, f"b{i}") for i, base in enumerate(view.baselines) if base.counts not in drawn]
    columns = [
        Column("Tokens kept after each layer", numeric=False),
        Column("MACs", hint="of one image"),
        Column(metric_words(view.metric), hint=f"{view.split}, 95 %"),
        Column("Against dense", hint="points, paired"),
    ]
    if axes.measured:
        columns += [
            Column("Predicted"),
            Column("Median", hint="95 %"),
            Column("p90"),
            Column("Speed", hint="dense = 1"),
        ]
    columns += [Column("Verdict", numeric=False), Column("Origin", numeric=False)]
    strong = frozenset() if view.chosen is None else frozenset({view.chosen})
    return Table(
        tuple(columns),
        tuple(_row(view, candidate, axes) for candidate, _ in rows),
        f"Candidates by rising cost{', then baselines' if len(rows) > len(view.candidates) else ''}; "
        f"{'the chosen one is marked.' if strong else 'none was chosen.'}",
        strong,
        tuple(key for _, key in rows),
    )


def _row(view: FrontView, candidate: CandidateView, axes: _Axes) -> tuple[Cell, ...]:
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
    cells += [Cell(candidate.verdict or DASH, badge=bool(candidate.verdict)), Cell(candidate.origin or DASH)]
    return tuple(cells)


def _time_cells(time: TimeView | None, speedup: float | None) -> list[Cell]:
    if time is None:
        return [Cell(DASH)] * 4
    return [
        Cell(ms_text(time.predicted)),
        Cell(ms_text(time.median), time.doubt),
        Cell(ms_text(time.p90)),
        Cell(ratio_text(speedup)),
    ]


def _difference(candidate: CandidateView) -> Cell:
    value = number(candidate.difference, "difference")
    low, high = number(candidate.difference, "ci95", 0), number(candidate.difference, "ci95", 1)
    small = f"{points_text(low)} to {points_text(high)}" if low is not None and high is not None else ""
    return Cell(points_text(value), small)

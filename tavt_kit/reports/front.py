"""The front: its chart, a table of every candidate, and how the search went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.candidates import CandidateView, FrontView, MemoryView, TimeView
from tavt_kit.reports.charts import (
    Curve,
    Frame,
    Kind,
    Mark,
    curve_chart,
    curve_legend,
    front_chart,
    front_legend,
    schedule_bar,
)
from tavt_kit.reports.final import FinalView, baseline_blocks, baseline_rows, final_rows
from tavt_kit.reports.picker import picker_blocks
from tavt_kit.reports.records import Records, number, sequence, text, whole
from tavt_kit.reports.words import (
    DASH,
    limit_words,
    macs_text,
    metric_words,
    ms_text,
    peak_text,
    percent_text,
    plural,
    points_text,
    ratio_text,
)

__all__ = [
    "Axes", "ablation_text", "axes_of", "cloud_of", "convergence_section", "front_section", "front_table", "marks_of",
]  # fmt: skip


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


_KIND_OF_ORIGIN: dict[str, Kind] = {
    "dense": "dense",
    "taper": "taper",
    "stages": "stages",
    "resolution": "resolution",
    "int8": "int8",
}


def cloud_of(records: Records, view: FrontView, axes: Axes) -> list[tuple[float, float]]:
    """What else was evaluated, from ``candidates.csv``: (cost, accuracy in percent).

    Candidates that were stopped early are known by a part of the pictures only; they are left out.
    """
    shown = {candidate.schedule for candidate in (*view.candidates, *view.baselines)}
    points = []
    most = max((_float(row.get("n")) or 0 for row in records.candidates), default=0)
    for row in records.candidates:
        if (_float(row.get("n")) or most) < most:
            continue
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
class Axes:
    """Which quantities the chart shows."""

    measured: bool
    statistic: str


def axes_of(view: FrontView) -> Axes:
    return Axes(any(candidate.time is not None for candidate in view.candidates), view.statistic)


def marks_of(view: FrontView, final: Iterable[FinalView], *, timed: bool | None = None) -> list[Mark]:
    """The marks of a front, its baselines and the closing table.

    Args:
        view: The front.
        final: Rows of the closing table; those of another split are left out.
        timed: Whether latency is what they stand at; by default where it is known.
    """
    axes = axes_of(view) if timed is None else Axes(timed, view.statistic)
    marks = [
        mark
        for index, candidate in enumerate(view.candidates)
        if (mark := _mark(candidate, _kind(view, index), _name(view, index), axes, f"c{index}"))
    ]
    drawn = {candidate.schedule for candidate in view.candidates}
    marks += [
        mark
        for index, base in enumerate(view.baselines)
        if base.schedule not in drawn
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


def _mark(candidate: CandidateView, kind: Kind, name: str, axes: Axes, key: str) -> Mark | None:
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


def _cost(candidate: CandidateView, axes: Axes) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """Place on the x axis, its bar from the 10th percentile to the one the budget is on, and the prediction.

    The mark stands at the median, because that is what the latency table predicts.
    """
    time = candidate.time
    if not axes.measured:
        return (None if candidate.macs is None else candidate.macs / 1e9), None, None
    if time is None or time.median is None:
        return (None if time is None else time.predicted), None, None
    return time.median, time.span(axes.statistic), time.predicted


def _time_lines(time: TimeView) -> list[str]:
    lines = []
    if time.median is not None:
        lines.append(f"median {ms_text(time.median)} {time.doubt}, p90 {ms_text(time.p90)}")
    if time.predicted is not None:
        lines.append(f"predicted {ms_text(time.predicted)}")
    return lines


def _final_mark(row: FinalView, axes: Axes) -> Mark | None:
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
    x_bar = row.time.span(axes.statistic) if row.time and axes.measured else None
    return Mark(row.kind, row.name, x, 100 * accuracy.value, x_bar, bar, lines=tuple(filter(None, lines)))


_GENES = {
    "image_size": "The image size",
    "layers": "Leaving layers out",
    "score": "The other score",
    "precision": "The other precision",
    "tokens": "Dropping tokens",
}


def ablation_text(record: Any) -> str:
    """A sentence on one gene of the chosen candidate.

    Args:
        record: An entry of ``gene_ablation`` in ``front.json``.
    """
    shares = {"multiply-adds": number(record, "macs_ratio"), "time": number(record, "time_ratio")}
    low, high = number(record, "difference", "ci95", 0), number(record, "difference", "ci95", 1)
    changes = {what: points_text(share - 1) for what, share in shares.items() if share is not None}
    cost = [f"{change} % {what}" for what, change in changes.items() if change != "0.0"]
    gene = _GENES.get(text(record, "gene") or "", "A gene")
    points = points_text(number(record, "difference", "difference"))
    what = ", ".join(cost) or "nothing"
    return (
        f"{gene} bought {what} for {points} points, 95 % {points_text(low)} to {points_text(high)} (against "
        f"{text(record, 'without', 'text')})."
    )


_LINE_POINTS = 200
"""Points of a line; a longer search is thinned out, its last point always kept."""


def convergence_section(records: Records) -> Section | Missing:
    """The convergence of a search, and its schedules."""
    front = records.first("front")
    if not front:
        return Missing("How a search converged", "fgvc-kit search MODEL --budget latency=20ms")
    volumes = [number({"v": volume}, "v") for volume in sequence(front, "history")]
    known = [(place, volume) for place, volume in enumerate(volumes, 1) if volume is not None]
    blocks: list[Block] = []
    if len(known) > 1:
        blocks += [Text.of(_said(known)), _volume(known, "evaluations")]
        if timed := _timed(known, records.candidates):
            blocks.append(_volume(timed, "seconds of evaluation"))
    if shown := _shown(FrontView.of(front)):
        blocks.append(_schedules(shown))
    return (
        Section("convergence", "How the search went", tuple(blocks))
        if blocks
        else Missing("How a search converged", "fgvc-kit search")
    )


def _said(known: Sequence[tuple[float, float]]) -> str:
    """When the search had nearly all of what it found."""
    last, final = known[-1]
    if final <= 0:
        return "The search found nothing within the budget that is cheaper than the dense model."
    place = next(place for place, volume in known if volume >= 0.99 * final)
    return (
        f"After {place:.0f} of {last:.0f} evaluations ({percent_text(place / last, 0)}) the front had 99\u00a0% of the "
        f"hypervolume that it has in the end, {final:.4f} (cost relative to dense, reference point 1, 0)."
    )


def _timed(known: Sequence[tuple[float, float]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Against the time of evaluations, as far as ``candidates.csv`` has it."""
    try:
        clock = [float(row.get("seconds") or "nan") for row in rows]
    except ValueError:
        return []
    if len(clock) < len(known) or any(not later >= earlier for earlier, later in zip(clock, clock[1:], strict=False)):
        return []
    return [(clock[int(place) - 1], volume) for place, volume in known]


def _volume(points: Sequence[tuple[float, float]], along: str) -> Figure:
    step = -(-len(points) // _LINE_POINTS)
    thin = tuple(points[(len(points) - 1) % step :: step])
    name = f"Hypervolume of the front over {along}"
    return Figure(name, curve_chart([Curve("hypervolume", thin)], thin[-1][0], "hypervolume", name, x_title=along), "")


def _shown(view: FrontView) -> list[tuple[str, CandidateView]]:
    """Up to four schedules: the chosen one (else the best), the cheapest of the front, the uniform and stage ones."""
    first = view.pick or (view.candidates[-1] if view.candidates else None)
    named = [("chosen" if view.pick else "best of the front", first)]
    named += [("cheapest of the front", view.candidates[0] if view.candidates else None)]
    for origin, name in (("taper", "uniform taper"), ("stages", "stage schedule")):
        named.append((name, next((one for one in view.baselines if one.origin == origin), None)))
    found: list[tuple[str, CandidateView]] = []
    for name, one in named:
        if one is not None and one.counts and all(one.schedule != other.schedule for _, other in found):
            found.append((name, one))
    return found


def _schedules(shown: Sequence[tuple[str, CandidateView]]) -> Figure:
    curves = [
        Curve(name, tuple((float(layer), float(count)) for layer, count in enumerate(one.counts, 1)), dots=True)
        for name, one in shown
    ]
    layers = max(len(one.counts) for _, one in shown)
    name = "Tokens kept after each layer"
    caption = "The baselines are the best of their kind that were evaluated within the budget."
    chart = curve_chart(curves, layers, "tokens", name, x_title="layer")
    return Figure(name, chart, caption if len(shown) > 2 else "", curve_legend(curves))

"""The front: its chart, a table of every candidate, and how the search went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from tavt_kit.reports.blocks import (
    AGAINST_DENSE,
    MACS,
    MEDIAN,
    P90,
    SPEED,
    VERDICT,
    Block,
    Cell,
    Column,
    Figure,
    Missing,
    Section,
    Table,
    Text,
    word_columns,
)
from tavt_kit.reports.candidates import (
    CandidateView,
    FrontView,
    MemoryView,
    accuracy_cell,
    difference_cell,
    time_cells,
    verdict_cell,
)
from tavt_kit.reports.charts import (
    KINDS,
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
from tavt_kit.reports.final import FinalView, baseline_blocks, baseline_rows, final_mark, final_rows
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
    "ablation_text",
    "cloud_of",
    "convergence_section",
    "front_section",
    "front_table",
    "marks_of",
    "untrained_text",
]


def front_section(records: Records) -> Section | Missing:
    """What the search found."""
    front = records.first("front")
    if not front:
        return Missing("The front of a search", "fgvc-kit search MODEL --budget latency=20ms")
    view = FrontView.of(front)
    blocks: list[Block] = picker_blocks(front, view, records.all("front")[0].path.parent)
    marks = marks_of(view, (*baseline_rows(front), *final_rows(records.first("final"))))
    if marks:
        blocks.append(_figure(view, marks, cloud_of(records, view)))
    if view.candidates:
        blocks.append(front_table(view))
        blocks += _over_budget(view)
    else:
        blocks.append(Text.of("The search found no candidate.", kind="warning"))
    blocks += [Text.of(ablation_text(one)) for one in sequence(front, "gene_ablation")]
    if untrained := untrained_text(front):
        blocks.append(Text.of(untrained, kind="warning"))
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
    timed = view.is_timed
    limit = next(iter(view.budget.of("latency" if timed else "flops")), None)
    floor = next(iter(view.budget.of(view.metric)), None)
    frame = Frame(
        "latency, ms" if timed else "multiply-adds, G",
        f"{metric_words(view.metric)} on {view.split}, %",
        limit.value * (1.0 if timed else 1e-9) if limit else None,
        f"budget {limit_words(limit)}" if limit else "",
        100 * floor.value if floor else None,
        f"asked for {limit_words(floor)}" if floor else "",
    )
    quantile = "p99" if view.statistic == "p99" else "p90"
    times = f"Marks stand at the median, their bars run from p10 to {quantile}" if timed else ""
    judged = f"; the budget is on the {view.statistic}" if times and limit else ""
    caption = (
        f"{times}{judged}{'. ' if times else ''}Upright bars are the 95 % interval of each accuracy alone: all "
        "candidates saw the same images, so their differences are surer than the bars suggest."
    )
    name = f"{metric_words(view.metric)} against {'latency' if timed else 'multiply-adds'}"
    return Figure(name, front_chart(marks, frame, name, cloud), caption, front_legend(marks, bool(cloud)))


def front_table(view: FrontView) -> Table:
    """Every candidate by rising cost, then the baselines that are not among them."""
    rows = [(candidate, f"c{index}") for index, candidate in enumerate(view.candidates)]
    drawn = {candidate.schedule for candidate in view.candidates}
    rows += [(base, f"b{i}") for i, base in enumerate(view.baselines) if base.schedule not in drawn]
    strong = frozenset() if view.chosen is None else frozenset({view.chosen})
    caption = (
        f"Candidates by rising cost{', then baselines' if len(rows) > len(view.candidates) else ''}; "
        f"{'the chosen one is marked.' if strong else 'none was chosen.'}"
    )
    cells = tuple(_row(view, candidate) for candidate, _ in rows)
    return Table(_columns(view), cells, caption, strong, tuple(key for _, key in rows))


def _over_budget(view: FrontView) -> list[Block]:
    """Finalists that were measured above the budget and are in no other table."""
    shown = {one.schedule for one in (*view.candidates, *view.baselines)}
    over = [one for one in view.measured if one.verdict == "FAIL" and one.schedule not in shown]
    rows = tuple(_row(view, one) for one in over)
    return [Table(_columns(view), rows, "Measured too, over the budget and not on the front.")] if rows else []


def _columns(view: FrontView) -> tuple[Column, ...]:
    accuracy = Column(metric_words(view.metric), hint=f"{view.split}, 95 %")
    columns = [*word_columns("Tokens kept after each layer"), MACS, accuracy, AGAINST_DENSE]
    if view.is_timed:
        columns += [Column("Predicted"), MEDIAN, P90, SPEED]
    if _knows_memory(view):
        columns.append(Column("Memory", hint="peak, median of fresh processes"))
    return (*columns, VERDICT, *word_columns("Origin"))


def _row(view: FrontView, one: CandidateView) -> tuple[Cell, ...]:
    dense, time = view.dense, one.time
    share = f"{percent_text(one.macs / dense.macs, 0)} of dense" if one.macs and dense and dense.macs else ""
    bar = schedule_bar(one.counts, view.tokens, f"tokens: {one.schedule}") if one.counts else None
    cells = [
        Cell(one.schedule or DASH, picture=bar, code=True),
        Cell(macs_text(one.macs), share),
        accuracy_cell(one.accuracy),
        difference_cell(one.difference),
    ]
    if view.is_timed:
        middle, p90 = time_cells(time)
        bounds = time.doubt_of("p90") if time else ""
        cells += [Cell(ms_text(time.predicted if time else None)), middle, replace(p90, small=bounds)]
        cells.append(Cell(ratio_text(view.speedup(one))))
    if _knows_memory(view):
        cells.append(_memory_cell(one.memory))
    return (*cells, verdict_cell(one.verdict), Cell(one.origin or DASH))


def _knows_memory(view: FrontView) -> bool:
    return any(one.memory is not None for one in view.candidates)


def _memory_cell(memory: MemoryView | None) -> Cell:
    if memory is None or memory.median is None:  # the latter of a search that still predicted it
        return Cell(DASH, str(memory) if memory else "")
    return Cell(peak_text(memory.median), f"{peak_text(memory.least)} to {peak_text(memory.most)}")


def cloud_of(records: Records, view: FrontView) -> list[tuple[float, float]]:
    """What else was evaluated, from ``candidates.csv``: (cost, accuracy in percent).

    Candidates that were stopped early are known by a part of the pictures only; they are left out.
    """
    shown = {candidate.schedule for candidate in (*view.candidates, *view.baselines)}
    points = []
    most = max((_float(row.get("n")) or 0 for row in records.candidates), default=0)
    for row in records.candidates:
        if (_float(row.get("n")) or most) < most:
            continue
        cost = _float(row.get("predicted_ms" if view.is_timed else "macs"))
        value = _float(row.get("value"))
        if cost is not None and value is not None and row.get("schedule") not in shown:
            points.append((cost if view.is_timed else cost / 1e9, 100 * value))
    return points


def _float(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def marks_of(view: FrontView, final: Iterable[FinalView], *, timed: bool | None = None) -> list[Mark]:
    """The marks of a front, its baselines and the closing table.

    Args:
        view: The front.
        final: Rows of the closing table; those of another split are left out.
        timed: Whether latency is what they stand at; by default where it is known.
    """
    timed = view.is_timed if timed is None else timed
    found = [_mark(view, one, _kind(view, index), f"c{index}", timed) for index, one in enumerate(view.candidates)]
    drawn = {candidate.schedule for candidate in view.candidates}
    for index, base in enumerate(view.baselines):
        if base.schedule not in drawn:
            kind: Kind = next((kind for kind in KINDS if kind == base.origin), "other")
            found.append(_mark(view, base, kind, f"b{index}", timed))
    # Figures of another split do not belong on the same axis.
    rows = [row for row in final if row.split == view.split and row.kind != "chosen"]
    return [mark for mark in (*found, *(final_mark(row, timed, view.statistic) for row in rows)) if mark]


def _kind(view: FrontView, index: int) -> Kind:
    return "chosen" if index == view.chosen else "dense" if view.candidates[index].origin == "dense" else "front"


def _mark(view: FrontView, one: CandidateView, kind: Kind, key: str, timed: bool) -> Mark | None:
    """A candidate at its median latency, because that is what the latency table predicts, or at its MACs."""
    accuracy, time = one.accuracy, one.time
    is_measured = time is not None and time.median is not None
    x = one.macs / 1e9 if one.macs is not None and not timed else None
    if timed and time is not None:
        x = time.median if is_measured else time.predicted
    if accuracy is None or x is None:
        return None
    lines = (
        "chosen" if kind == "chosen" else one.origin or kind,
        one.schedule,
        f"{accuracy}" + (f" (95 % {accuracy.interval})" if accuracy.interval else ""),
        *(time.lines if time is not None else ()),
        f"{macs_text(one.macs)} multiply-adds",
        one.verdict,
    )
    return Mark(
        kind,
        kind if kind in ("chosen", "dense") else "",
        x,
        100 * accuracy.value,
        time.span(view.statistic) if time and timed and is_measured else None,
        accuracy.bar,
        time.predicted if time and timed and is_measured else None,
        is_measured or not timed,
        tuple(filter(None, lines)),
        key,
    )


_GENES = {
    "image_size": "The image size",
    "layers": "Leaving layers out",
    "score": "The other score",
    "precision": "The other precision",
    "reduction": "The other reduction",
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


def untrained_text(front: Mapping[str, Any]) -> str:
    """What is said where image sizes were looked at that the weights were never trained for; else nothing.

    Args:
        front: A ``front.json``.
    """
    sizes = [size for size in sequence(front, "untrained_sizes") if isinstance(size, int)]
    own = number(front, "model", "preprocessing", "image_size", 1)
    if not sizes or own is None:
        return ""
    trained = [size for size in sequence(front, "model", "image_sizes") if isinstance(size, int)]
    wanted = ",".join(str(size) for size in sorted({int(own), *trained, *sizes}, reverse=True))
    return (
        f"Not trained here: {', '.join(map(str, sizes))} px. Until the weights are (fgvc-kit distill RUN -o OUT "
        f"--image-size {wanted}, then search OUT), nothing found here counts as better than a smaller image."
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

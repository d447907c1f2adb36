"""The front: its chart, a table of every candidate, and how the search went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Cell, Column, Missing, Rule, Section, Table, Text
from tavt_kit.reports.candidates import (
    AGAINST_DENSE,
    MACS,
    MEDIAN,
    VERDICT,
    CandidateView,
    DifferenceView,
    FrontView,
    accuracy_column,
    difference_cell,
)
from tavt_kit.reports.charts import KINDS, Curve, Frame, Kind, Mark, curve_figure, front_figure, schedule_bar
from tavt_kit.reports.final import baseline_blocks, final_mark, final_rows, mark_of
from tavt_kit.reports.picker import picker_blocks
from tavt_kit.reports.records import Records, mapping, number, sequence, text, whole


def front_section(records: Records) -> Section | Missing:
    """What the search found."""
    front = records.first("front")
    if not front:
        return Missing("The front of a search", "fgvc-kit search MODEL --budget latency=20ms")
    view = FrontView.of(front)
    blocks: list[Block] = picker_blocks(view, records.all("front")[0].path.parent)
    marks = marks_of(view, (*view.models, *final_rows(records.first("final"))))
    if marks:
        blocks.append(_figure(view, marks, cloud_of(records, view)))
    if view.candidates:
        blocks += [front_table(view), *_over_budget(view)]
    else:
        blocks.append(Text.of("The search found no candidate.", kind="warning"))
    blocks += [Text.of(ablation_text(one)) for one in sequence(front, "gene_ablation")]
    if untrained := untrained_text(front):
        blocks.append(Text.of(untrained, kind="warning"))
    blocks += baseline_blocks(view)
    if told := _told(front, view):
        blocks.append(Text.of(told, kind="note"))
    return Section("front", "The front", tuple(blocks))


def _told(front: Mapping[str, Any], view: FrontView) -> str:
    """How the search went, in a few sentences."""
    sentences = []
    evaluated, volume = whole(front, "evaluations"), number(front, "hypervolume")
    if evaluated is not None:
        sentences.append(f"{words.plural(evaluated, 'schedule')} evaluated on the {view.split} split")
    if stopped := text(front, "stopped_because"):
        sentences.append(f"the search ended because {stopped}")
    if view.measured:
        sentences.append(
            f"{words.plural(len(view.measured), 'schedule')} measured end to end, the dense model among them"
        )
    if over := whole(front, "measured_over_budget"):
        sentences.append(f"{words.plural(over, 'schedule')} predicted within the budget measured above it")
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
    return f"{words.percent_text(abs(error))} {'more' if error > 0 else 'less'}"


def _figure(view: FrontView, marks: list[Mark], cloud: list[tuple[float, float]]) -> Block:
    timed, frame = view.is_timed, frame_of(view, view.budget, view.is_timed)
    floor = next(iter(view.budget.of(view.metric)), None)
    if floor is not None:
        frame = replace(frame, floor=100 * floor.value, floor_text=f"asked for {words.limit_words(floor)}")
    quantile = "p99" if view.statistic == "p99" else "p90"
    times = f"Marks stand at the median, their bars run from p10 to {quantile}" if timed else ""
    judged = f"; the budget is on the {view.statistic}" if times and frame.ceiling_text else ""
    caption = (
        f"{times}{judged}{'. ' if times else ''}Upright bars are the 95 % interval of each accuracy alone: all "
        "candidates saw the same images, so their differences are surer than the bars suggest."
    )
    name = f"{words.metric_words(view.metric)} against {'latency' if timed else 'multiply-adds'}"
    return front_figure(marks, frame, name, caption, cloud)


def frame_of(view: FrontView, budget: Budget, timed: bool) -> Frame:
    """The axes of a front's chart, over latency or multiply-adds, with the ceiling of a budget on these."""
    limit = next(iter(budget.of("latency" if timed else "flops")), None)
    ceiling = None if limit is None else limit.value * (1.0 if timed else 1e-9)
    line = "" if limit is None else f"budget {words.limit_words(limit)}"
    y_title = f"{words.metric_words(view.metric)} on {view.split}, %"
    return Frame("latency, ms" if timed else "multiply-adds, G", y_title, ceiling, line)


def front_table(view: FrontView, *, folded: bool = False) -> Table:
    """Every candidate by rising cost, then the baselines that are not among them; folded without keys."""
    strong = () if view.chosen is None else (view.chosen,)
    caption = (
        f"Candidates by rising cost{', then baselines' if len(view.shown) > len(view.candidates) else ''}; "
        f"{'the chosen one is marked.' if strong else 'none was chosen.'}"
    )
    table = Table.of(view.shown, caption, *_columns(view), strong=strong, folded=folded)
    return table if folded else replace(table, keys=tuple(one.key for one in view.shown))


def _over_budget(view: FrontView) -> list[Block]:
    """Finalists that were measured above the budget and are in no other table."""
    shown = {one.schedule for one in (*view.candidates, *view.baselines)}
    over = [one for one in view.measured if one.verdict == "FAIL" and one.schedule not in shown]
    caption = "Measured too, over the budget and not on the front."
    return [Table.of(over, caption, *_columns(view))] if over else []


def _columns(view: FrontView) -> list[Rule[CandidateView]]:
    def macs(one: CandidateView) -> Cell:
        share = one.macs / view.dense.macs if one.macs and view.dense and view.dense.macs else None
        return Cell(words.macs_text(one.macs), f"{words.percent_text(share, 0)} of dense" if share else "")

    columns: list[Rule[CandidateView]] = [
        ("Tokens kept after each layer", lambda one: schedule_cell(view, one)),
        (MACS[0], macs),
        accuracy_column(view.metric, view.split),
        (AGAINST_DENSE, lambda one: difference_cell(one.difference)),
    ]
    if view.is_timed:
        columns += [
            (Column("Predicted"), lambda one: words.ms_text(one.time.predicted if one.time else None)),
            MEDIAN,
            (Column("p90"), lambda one: Cell(words.ms_text(one.time.p90), one.time.doubt_of("p90")) if one.time
             else words.DASH),
            (Column("Speed", hint="dense = 1"), lambda one: words.ratio_text(view.speedup(one))),
        ]  # fmt: skip
    if any(one.memory is not None for one in view.candidates):
        columns.append((Column("Memory", hint="peak, median of fresh processes"), _memory_cell))
    return [*columns, VERDICT, ("Origin", lambda one: one.origin or words.DASH)]


def schedule_cell(view: FrontView, one: CandidateView) -> Cell:
    """A schedule with its bar."""
    bar = schedule_bar(one.counts, view.tokens, f"tokens: {one.schedule}") if one.counts else None
    return Cell(one.schedule or words.DASH, image=bar, code=True)


def _memory_cell(one: CandidateView) -> Cell:
    memory = one.memory
    if memory is None or memory.median is None:  # the latter of a search that still predicted it
        return Cell(words.DASH, str(memory) if memory else "")
    return Cell(words.peak_text(memory.median), f"{words.peak_text(memory.least)} to {words.peak_text(memory.most)}")


def cloud_of(records: Records, view: FrontView) -> list[tuple[float, float]]:
    """What else was evaluated, from ``candidates.csv``: (cost, accuracy in percent).

    Candidates that were stopped early are known by a part of the images only; they are left out.
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


def marks_of(view: FrontView, final: Iterable[CandidateView], *, timed: bool | None = None) -> list[Mark]:
    """The marks of a front, its baselines and the closing table, at their latency where that is known."""
    timed = view.is_timed if timed is None else timed
    found = [_mark(view, one, _kind(view, one), timed) for one in view.shown]
    # Figures of another split do not belong on the same axis.
    rows = [row for row in final if row.split == view.split and row.kind != "chosen"]
    return [mark for mark in (*found, *(final_mark(row, timed, view.statistic) for row in rows)) if mark]


def _kind(view: FrontView, one: CandidateView) -> Kind:
    if one.key.startswith("b"):
        return next((kind for kind in KINDS if kind == one.origin), "other")
    return "chosen" if one is view.pick else "dense" if one.origin == "dense" else "front"


def _mark(view: FrontView, one: CandidateView, kind: Kind, timed: bool) -> Mark | None:
    label = kind if kind in ("chosen", "dense") else ""
    above = ("chosen" if kind == "chosen" else one.origin or kind, one.schedule)
    below = (f"{words.macs_text(one.macs)} multiply-adds", one.verdict)
    return mark_of(one, kind, label, above, below, timed, view.statistic)


_GENES = {
    "image_size": "The image size",
    "layers": "Leaving layers out",
    "score": "The other score",
    "precision": "The other precision",
    "reduction": "The other reduction",
    "tokens": "Dropping tokens",
}


def ablation_text(record: Any) -> str:
    """A sentence on one gene of the chosen candidate, from an entry of ``gene_ablation`` in ``front.json``."""
    shares = {"multiply-adds": number(record, "macs_ratio"), "time": number(record, "time_ratio")}
    one = DifferenceView.of(mapping(record, "difference"))
    changes = {what: words.points_text(share - 1) for what, share in shares.items() if share is not None}
    cost = [f"{change} % {what}" for what, change in changes.items() if change != "0.0"]
    gene = _GENES.get(text(record, "gene") or "", "A gene")
    points = words.points_text(one.difference)
    what = ", ".join(cost) or "nothing"
    return (
        f"{gene} bought {what} for {points} points, 95 % {words.points_interval(*one.ci95)} (against "
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
    volumes = enumerate((number([one], 0) for one in sequence(front, "history")), 1)
    known = [(count, volume) for count, volume in volumes if volume is not None]
    blocks: list[Block] = []
    if len(known) > 1:
        blocks += [Text.of(_said(known)), _volume(known, "evaluations")]
        if timed := _timed(known, records.candidates):
            blocks.append(_volume(timed, "seconds of evaluation"))
    if shown := _shown(FrontView.of(front)):
        blocks.append(_schedules(shown))
    if blocks:
        return Section("convergence", "How the search went", tuple(blocks))
    return Missing("How a search converged", "fgvc-kit search MODEL --budget latency=20ms")


def _said(known: Sequence[tuple[float, float]]) -> str:
    """When the search had nearly all of what it found."""
    last, final = known[-1]
    if final <= 0:
        return "The search found nothing within the budget that is cheaper than the dense model."
    count = next(count for count, volume in known if volume >= 0.99 * final)
    return (
        f"After {count:.0f} of {last:.0f} evaluations ({words.percent_text(count / last, 0)}) the front had 99\u00a0% "
        f"of the hypervolume that it has in the end, {final:.4f} (cost relative to dense, reference point 1, 0)."
    )


def _timed(known: Sequence[tuple[float, float]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Against the time of evaluations, as far as ``candidates.csv`` has it."""
    clock = [_float(row.get("seconds")) for row in rows]
    if len(clock) < len(known) or None in clock or clock != sorted(clock, key=lambda seconds: seconds or 0.0):
        return []
    return [(clock[int(count) - 1] or 0.0, volume) for count, volume in known]


def _volume(points: Sequence[tuple[float, float]], along: str) -> Block:
    step = -(-len(points) // _LINE_POINTS)
    thin = tuple(points[(len(points) - 1) % step :: step])
    name = f"Hypervolume of the front over {along}"
    return curve_figure([Curve("hypervolume", thin)], thin[-1][0], "hypervolume", name, x_title=along)


def _shown(view: FrontView) -> list[tuple[str, CandidateView]]:
    """Up to four schedules: the chosen one (else the best), the cheapest of the front, the uniform and stage ones."""
    named = [("chosen", view.pick)] if view.pick else [("best of the front", one) for one in view.candidates[-1:]]
    named += [("cheapest of the front", one) for one in view.candidates[:1]]
    for origin, name in (("taper", "uniform taper"), ("stages", "stage schedule")):
        named += [(name, one) for one in view.baselines if one.origin == origin][:1]
    found: dict[str, tuple[str, CandidateView]] = {}
    for name, one in named:
        if one.counts:
            found.setdefault(one.schedule, (name, one))
    return list(found.values())


def _schedules(shown: Sequence[tuple[str, CandidateView]]) -> Block:
    curves = [
        Curve(name, tuple((float(layer), float(count)) for layer, count in enumerate(one.counts, 1)), dots=True)
        for name, one in shown
    ]
    layers = max(len(one.counts) for _, one in shown)
    caption = "The baselines are the best of their kind that were evaluated within the budget." if shown[2:] else ""
    return curve_figure(curves, layers, "tokens", "Tokens kept after each layer", x_title="layer", caption=caption)

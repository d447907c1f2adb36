"""What a search found: one chart of everything measured, every candidate, how it went."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.reports import columns, words
from tavt_kit.reports.baselines import baseline_blocks, fit_rows
from tavt_kit.reports.blocks import Block, Cell, Figure, Missing, Rule, Section, Table, Text
from tavt_kit.reports.candidates import CandidateView, FrontView, quantile_of, recorded_budget
from tavt_kit.reports.charts import KINDS, Frame, Kind, Mark, front_figure, schedule_bar
from tavt_kit.reports.records import Records, number, sequence, text, whole


def chart_of(records: Records) -> Figure | None:
    """Everything that was measured, with the budget: the table of a fit, else the front of a search."""
    budget = recorded_budget(records.first("fit"))
    statistic = quantile_of(budget)
    marks = _row_marks(fit_rows(records.first("fit")), statistic)
    if len(marks) > 1:
        return _figure(marks, frame_of(budget, "top1", "val", statistic), statistic)
    return front_chart(records)


def front_chart(records: Records) -> Figure | None:
    """The front of a search, its baselines, and what else it measured; None where no point is known."""
    view = FrontView(records.first("front"))
    statistic = view.statistic if view.is_timed else None
    marks = [*marks_of(view, statistic), *_row_marks(view.models, statistic)]
    frame = frame_of(view.budget, view.metric, view.split, statistic)
    # What else was measured, neither on the front nor a baseline.
    shown, scale = {row.schedule for row in (*view.candidates, *view.baselines)}, 1.0 if view.is_timed else 1e-9
    others = ((view.cost(row), row.accuracy) for row in view.measured if row.schedule not in shown)
    cloud = [(cost * scale, 100 * right.value) for cost, right in others if cost is not None and right is not None]
    return _figure(marks, frame, statistic, cloud) if marks else None


def _figure(
    marks: Sequence[Mark], frame: Frame, statistic: str | None, cloud: Sequence[tuple[float, float]] = ()
) -> Figure:
    """The chart with its caption and its name."""
    latency = "" if statistic is None else f"Marks stand at the {words.quantile_words(statistic)}"
    if any(mark.x_bar for mark in marks):
        latency += ", bars along it are its 95 % bounds: wholly left of the budget's line passes"
    caption = (
        f"{latency}{'. ' if latency else ''}Upright bars are the 95 % interval of each accuracy alone: all models saw "
        "the same images, so their differences are surer than the bars suggest."
    )
    return front_figure(marks, frame, f"{frame.y_title} against {frame.x_title}", caption, cloud)


def frame_of(budget: Budget, metric: str, split: str, statistic: str | None) -> Frame:
    """The axes of a chart over this quantile of the latency, or multiply-adds for None, with the limits of a budget."""
    limit = next(iter(budget.of("flops" if statistic is None else "latency")), None)
    floor = next(iter(budget.of(metric)), None)
    return Frame(
        "multiply-adds, G" if statistic is None else f"{words.quantile_words(statistic)}, ms",
        f"{words.metric_words(metric)} on {split}, %",
        None if limit is None else limit.value * (1e-9 if statistic is None else 1.0),
        "" if limit is None else f"budget {words.limit_words(limit)}",
        None if floor is None else 100 * floor.value,
        "" if floor is None else f"asked for {words.limit_words(floor)}",
    )


def marks_of(view: FrontView, statistic: str | None) -> list[Mark]:
    """The marks of a front and its baselines: at this quantile of the latency, at multiply-adds for None."""
    marks = []
    for row in view.shown:
        kind: Kind = "chosen" if row is view.pick else "dense" if row.origin == "dense" else "front"
        if row.key.startswith("b"):
            kind = _kind(row.origin)
        above = ("chosen" if kind == "chosen" else row.origin or kind, row.schedule)
        below = (f"{words.macs_text(row.macs)} multiply-adds", row.verdict)
        marks.append(_mark(row, kind, kind if kind in ("chosen", "dense") else "", above, below, statistic))
    return [mark for mark in marks if mark]


def _row_marks(rows: Iterable[CandidateView], statistic: str | None) -> list[Mark]:
    """The marks of a fit's rows, or of a front's baselines that are no schedules."""
    marks = (_mark(row, _kind(row.kind), row.name, (row.name,), (row.note, row.verdict), statistic) for row in rows)
    return [mark for mark in marks if mark]


def _kind(name: str) -> Kind:
    return next((kind for kind in KINDS if kind == name), "other")


def _mark(
    row: CandidateView, kind: Kind, label: str, above: Sequence[str], below: Sequence[str], statistic: str | None
) -> Mark | None:
    """A model as a point; None where its accuracy or cost is not known. The hover text has the figures in between."""
    accuracy, time = row.accuracy, row.time
    x, bar, is_measured = None if row.macs is None else row.macs / 1e9, None, True
    if statistic is not None:
        is_measured, bounds = time.median is not None, time.bounds(statistic)
        x = time.of_statistic(statistic) or time.median or time.predicted
        bar = bounds if is_measured and math.isfinite(bounds[1]) else None
    if accuracy is None or x is None:
        return None
    interval = f" (95 % {accuracy.interval})" if accuracy.interval else ""
    measured = None if time.median is None else f"median {time} {time.doubt}, p90 {words.ms_text(time.p90)}"
    predicted = None if time.predicted is None else f"predicted {words.ms_text(time.predicted)}"
    lines = filter(None, (*above, f"{accuracy}{interval}", measured, predicted, *below))
    return Mark(kind, label, x, 100 * accuracy.value, bar, accuracy.bar, is_measured, tuple(lines), row.key)


def export_command(view: FrontView, row: CandidateView, folder: Path) -> str:
    """The command that writes this point as a file for the front's target, and checks it."""
    runtime, precision = (text(view.record, "target", name) for name in ("runtime", "precision"))
    form = {"openvino": "openvino", "onnxruntime": "onnx", "torch": "safetensors"}.get(runtime or "", "onnx")
    if row.genes:  # which no --schedule can say
        index = [other.schedule for other in view.candidates].index(row.schedule)
        return shlex.join(["fgvc-kit", "export", str(folder), "--pick", str(index), "--format", form])
    parts = ["fgvc-kit", "export", str(folder), "--schedule", row.schedule or "dense", "--format", form]
    precision = "int8" if row.kind == "int8" else precision
    return shlex.join(parts if precision in (None, "f32") else [*parts, "--precision", str(precision)])


def cost_words(view: FrontView, row: CandidateView) -> str:
    """The quantile that the budget is on, or the multiply-adds, of one candidate."""
    if not view.is_timed or not row.time.is_known:
        return f"{words.macs_text(row.macs)} multiply-adds"
    if row.time.median is None:
        return f"predicted {words.ms_text(row.time.predicted)}"
    name = "median" if view.statistic == "p50" else view.statistic
    return f"{name} {words.ms_text(view.cost(row))} {row.time.doubt_of(view.statistic)}".rstrip()


def front_section(records: Records) -> Section | Missing:
    """Everything the search found, and how sure it is."""
    front = records.first("front")
    if not front:
        return Missing("The front of a search", "fgvc-kit search MODEL --budget latency=20ms")
    view = FrontView(front)
    chart = front_chart(records) if fit_rows(records.first("fit")) else None
    blocks: list[Block] = [] if chart is None else [chart]
    if view.candidates:
        # By rising cost, then the baselines that are not among them.
        strong = () if view.chosen is None else (view.chosen,)
        caption = (
            f"Candidates by rising cost{', then baselines' if len(view.shown) > len(view.candidates) else ''}; "
            f"{'the chosen one is marked' if strong else 'none was chosen'}. `export --pick 0` takes the first."
        )
        keys = (row.key for row in view.shown)
        blocks.append(Table.of(view.shown, caption, *_columns(view), strong=strong, keys=keys))
        shown = {row.schedule for row in (*view.candidates, *view.baselines)}
        over = [row for row in view.measured if row.verdict == "FAIL" and row.schedule not in shown]
        caption = "Measured too, over the budget and not on the front."
        blocks += [Table.of(over, caption, *_columns(view))] if over else []
    else:
        blocks.append(Text.of("The search found no candidate.", kind="warning"))
    if untrained := untrained_text(front):
        blocks.append(Text.of(untrained, kind="warning"))
    beside = len(view.shown) - len(view.candidates) + len(view.models)
    gist = f"{len(view.candidates)} on the front, {words.plural(beside, 'baseline')}"
    return Section("front", "Everything the search found", (*blocks, *baseline_blocks(view)), gist)


def _columns(view: FrontView) -> list[Rule[CandidateView]]:
    # A schedule with its bar, which is full where the dense model has as many tokens, as far as schedules tell.
    tokens = max((row.counts[0] for row in (*view.candidates, *view.baselines) if row.counts), default=1)

    def schedule(row: CandidateView) -> Cell:
        bar = schedule_bar(row.counts, tokens, f"tokens: {row.schedule}") if row.counts else None
        return Cell(row.schedule or words.DASH, image=bar, code=True)

    return [("Tokens kept after each layer", schedule), *columns.of_models(view.metric, view.split, view)]


def untrained_text(front: Mapping[str, Any]) -> str:
    """What is said where image sizes were looked at that the weights were never trained for; else nothing."""
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


def convergence_section(records: Records) -> Section | Missing:
    """How the search went."""
    front = records.first("front")
    volumes = enumerate((number([volume], 0) for volume in sequence(front, "history")), 1)
    known = [(count, volume) for count, volume in volumes if volume is not None]
    sentences = (_course(FrontView(front)), _converged(known) if len(known) > 1 else "")
    blocks = tuple(Text.of(sentence) for sentence in sentences if sentence)
    if not blocks:
        return Missing("How a search converged", "fgvc-kit search MODEL --budget latency=20ms")
    count = whole(front, "evaluations")
    gist = "" if count is None else words.plural(count, "evaluation")
    return Section("convergence", "How the search went", blocks, gist)


def _course(view: FrontView) -> str:
    """How the search went, in a few sentences."""
    front, sentences = view.record, []
    if (evaluated := whole(front, "evaluations")) is not None:
        sentences.append(f"{words.plural(evaluated, 'schedule')} evaluated on the {view.split} split")
    if stopped := text(front, "stopped_because"):
        sentences.append(f"the search ended because {stopped}")
    if view.measured:
        measured = words.plural(len(view.measured), "schedule")
        sentences.append(f"{measured} measured end to end, the dense model among them")
    if over := whole(front, "measured_over_budget"):
        sentences.append(f"{words.plural(over, 'schedule')} predicted within the budget measured above it")
    if late := len(sequence(front, "not_measured")):
        sentences.append(f"no time was left to measure {words.plural(late, 'finalist')}")
    times = [row.time for row in (*view.candidates, *view.baselines)]
    if errors := [time.predicted / time.median - 1 for time in times if time.predicted and time.median]:
        error = median(errors)
        off = f"{words.percent_text(abs(error))} {'more' if error > 0 else 'less'}"
        sentences.append(f"the layer table predicted {off} than was measured (median)")
    return "; ".join(sentences) + "." if sentences else ""


def _converged(known: Sequence[tuple[int, float]]) -> str:
    """When the search had nearly all of what it found."""
    last, final = known[-1]
    if final <= 0:
        return "The search found nothing within the budget that is cheaper than the dense model."
    count = next(count for count, volume in known if volume >= 0.99 * final)
    return (
        f"After {count} of {last} evaluations ({words.percent_text(count / last, 0)}) the front had 99\u00a0% "
        f"of the hypervolume that it has in the end, {final:.4f} (cost relative to dense, reference point 1, 0)."
    )

"""What distillation did to the same schedules, and how training went step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports import columns, words
from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.candidates import Estimate
from tavt_kit.reports.charts import Curve, curve_figure, thinned
from tavt_kit.reports.records import RecordFile, Records, integers, mapping, number, objects, sequence, text, whole


class _Step:
    """One schedule of the ladder, before and after, with the paired difference."""

    def __init__(self, entry: Any, after: Any) -> None:
        self.name, self.schedule = text(entry, "name") or words.DASH, counts_text(integers(entry, "schedule"))
        self.macs = number(entry, "macs")
        self.before, self.after = (Estimate.of(mapping(record, "accuracy")) for record in (entry, after))
        self.difference = Estimate.of(mapping(after, "difference"), "difference")
        self.lift = self.after.value - self.before.value if self.before and self.after else None
        high = self.difference.high if self.difference else None
        self.is_lowered = self.lift is not None and high is not None and high < 0  # beyond doubt


def ladder_section(records: Records) -> Section | Missing:
    """The ladder of the run that distilled."""
    runs = [file.body for file in records.all("run") if sequence(file.body, "results", "before")]
    controls = [run for run in runs if _is_control(run)]
    run = next((run for run in runs if run not in controls), next(iter(controls), None))
    if run is None:
        return Missing("Accuracies before and after distillation", "fgvc-kit distill MODEL")
    start = text(run, "asked", "start_sha256")
    control = next(
        (other for other in controls if other is not run and text(other, "asked", "start_sha256") == start), None
    )
    alone = {} if control is None else {step.name: step.after for step in _steps(control)}
    steps, first = _steps(run), mapping(run, "results", "before", 0, "accuracy")
    split, metric = text(first, "split") or "val", words.metric_words(text(first, "metric") or "top1")
    said = f"Distillation has not ended, so there is only the {metric} on {split} before it."
    if known := [step for step in steps if step.lift is not None]:
        lifted = sum(step.difference is not None and (step.difference.low or 0.0) > 0 for step in known)
        lowered = ", ".join(step.name for step in known if step.is_lowered)
        said = (
            f"In-place distillation lifted {lifted} of {len(known)} schedules beyond doubt (paired 95 % interval above "
            f"0){f' and lowered {lowered}' if lowered else ''}."
        )
        if run in controls:
            said = "This run learned from its labels alone: it is the control of a distillation."
        elif control is None:
            said += " How much of that its labels alone would have given, `fgvc-kit distill RUN --control` says."
        else:
            said += " Beside it the same steps by the labels alone, from the same weights."

    def lift(step: _Step) -> Cell:
        return Cell(words.points_text(step.lift), step.difference.points if step.difference else "")

    by_labels = (Column("Labels alone", hint="95 %"), lambda step: columns.accuracy(alone.get(step.name)))
    table = Table.of(
        steps,
        f"{metric} on the {split} split, before distillation and after.",
        ("Schedule", lambda step: Cell(step.name, step.schedule)),
        (Column("MACs", hint="of one image"), lambda step: words.macs_text(step.macs)),
        (Column("Before", hint="95 %"), lambda step: columns.accuracy(step.before)),
        (Column("After", hint="95 %"), lambda step: columns.accuracy(step.after)),
        (Column("Lift", hint="points, paired"), lift),
        *([by_labels] if alone else ()),
    )
    is_known = any(step.before or step.after for step in steps)
    blocks = (Text.of(said), table) if is_known else (Text.of(said),)
    return Section("distillation", "What distillation did", blocks, words.plural(len(steps), "schedule"))


def lowered_dense(records: Records) -> str | None:
    """A sentence where distillation took accuracy from the dense model: it changes what "dense" stands for."""
    for file in records.all("run"):
        if _is_control(file.body):
            continue
        dense = next((step for step in _steps(file.body) if step.name == "dense"), None)
        if dense is not None and dense.is_lowered:
            return (
                f"Distillation changed the dense model by {words.points_text(dense.lift)} points ({dense.before} to "
                f"{dense.after}), so what is called dense here is less accurate than the model that was given."
            )
    return None


def _is_control(run: Mapping[str, Any]) -> bool:
    """Whether it took the steps of a distillation by its labels alone."""
    return text(run, "asked", "sampling") == "dense"


def _steps(run: Mapping[str, Any]) -> list[_Step]:
    """The schedules of the ladders before and after, by name."""
    after = {text(entry, "name"): entry for entry in sequence(run, "results", "after")}
    return [_Step(entry, after.get(text(entry, "name"))) for entry in sequence(run, "results", "before")]


_OTHER = ("step", "loss", "lr", "gradient_norm", "loss_scale", "images_per_second", "seconds_waiting")
"""What a line holds beside evaluations and the terms of the loss."""

_TERMS = {
    "cross_entropy": "cross-entropy of the full network",
    "kl_smallest": "divergence of the smallest",
    "kl_random": "divergence of random sub-networks",
}
_VAL = "val_"


def learning_section(records: Records) -> Section | Missing:
    """What each training reached, and the curves of those that went step by step."""
    runs = records.all("run")
    table = _reached([run for run in runs if number(run.body, "results", "val", "value") is not None])
    blocks: list[Block] = [table] if table.rows else []
    blocks += [average_table(file.body) for file in records.all("average")]
    blocks += [block for run in runs for block in _run(run, records.steps.get(run.path, ()))]
    if not blocks:
        return Missing("Learning curves", "fgvc-kit distill MODEL")
    steps = [count for run in runs if (count := whole(run.body, "asked", "steps"))]
    gist = ", ".join([*(["a head"] if len(steps) < len(runs) else []), *(f"{count} steps" for count in steps)])
    return Section("learning", "How training went", tuple(blocks), gist)


def _reached(runs: Sequence[RecordFile]) -> Table:
    """What each training ended with."""

    def folder(run: RecordFile) -> Cell:
        parts = (text(run.body, "asked", "recipe"), f"{size} px" if (size := _pixels(run.body)) else "")
        return Cell(run.path.parent.name, " at ".join(filter(None, parts)), code=True)

    return Table.of(
        runs,
        "What each training ended with, every token kept.",
        ("Folder", folder),
        (Column("Steps"), lambda run: f"{whole(run.body, 'asked', 'steps') or words.DASH}"),
        (Column("Accuracy", hint="val, 95 %"), lambda run: columns.recorded_accuracy(run.body, "results", "val")),
        (Column("Time", hint="of the steps"), lambda run: _minutes(number(run.body, "results", "loop", "seconds"))),
    )


def average_table(body: Mapping[str, Any]) -> Table:
    """The mean of several fine-tunes beside each of them, from ``average.json``."""
    return Table.of(
        objects(body, "rows"),
        "The mean of the fine-tuned weights beside each of them, at its image size on val.",
        ("Fine-tune", lambda row: Cell(f"at {whole(row, 'image_size') or words.DASH} px", text(row, "run") or "")),
        (Column("Alone", hint="top-1, 95 %"), lambda row: columns.recorded_accuracy(row, "top1")),
        (Column("Mean", hint="top-1, 95 %"), lambda row: columns.recorded_accuracy(row, "average_top1")),
        (Column("Change", hint="points, paired"), columns.recorded_difference),
    )


def _pixels(body: Mapping[str, Any]) -> str:
    """A side of the images that it was trained on; empty where that is not recorded."""
    size = sequence(body, "asked", "image_size")
    return f"{size[-1]}" if size else ""


def _minutes(seconds: float | None) -> str:
    return words.DASH if seconds is None else f"{seconds // 60:.0f}:{seconds % 60:02.0f} min"


def _run(run: RecordFile, steps: Sequence[Mapping[str, Any]]) -> list[Block]:
    losses = _points(steps, "loss")
    if not losses:
        return []
    what = "distillation" if text(run.body, "verb") == "distill" else "fine-tuning"
    what = "the control" if _is_control(run.body) else what
    name = f"{what}{f' at {size} px' if (size := _pixels(run.body)) else ''} by the recipe "
    name += text(run.body, "asked", "recipe") or words.DASH
    terms = [key for key in steps[0] if key not in _OTHER and not key.startswith(_VAL)]
    curves = [thinned("loss", losses, spread=True)]
    curves += [thinned(_TERMS.get(term, term), points) for term in terms if (points := _points(steps, term))]
    evaluated = dict.fromkeys(key for line in steps for key in line if key.startswith(_VAL))
    return [
        Text.of(_training_sentence(run.body, name, steps, losses)),
        curve_figure(curves[:4], losses[-1][0], "loss", f"loss over the steps of {name}"),
        *(_evaluations(run.body, name, steps, key) for key in evaluated if _points(steps, key)),
    ]


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    pairs = ((number(line, "step"), number(line, name)) for line in steps)
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _training_sentence(
    body: Mapping[str, Any], name: str, steps: Sequence[Mapping[str, Any]], losses: Sequence[tuple[float, float]]
) -> str:
    share = max(1, len(losses) // 10)
    first, last = (fmean(value for _, value in part) for part in (losses[:share], losses[-share:]))
    loop, asked, done = mapping(body, "results", "loop"), whole(body, "asked", "steps"), f"{losses[-1][0]:.0f}"
    made = f"{done} steps"
    if asked is not None and f"{asked}" != done:
        made = f"{done} of {asked} steps"
    ends = f"from {words.significant(first)} to {words.significant(last)} (means of the first and the last tenth)"
    fell = "the loss fell" if last < first else "the loss did not fall: it went"
    said = f"{name[0].upper()}{name[1:]}: {made}; {fell} {ends}."
    selected = mapping(loop, "selected")
    metric, step, value = text(selected, "metric"), whole(selected, "step"), number(selected, "value")
    if metric is not None and step is not None and value is not None:
        best = words.significant(value) if metric == "loss" else words.percent_text(value)
        said += f" The weights are those of step {step}, the best by {_on_val(body, metric)} ({best})."
    waited, seconds = _points(steps, "seconds_waiting"), number(loop, "seconds")
    if seconds and waited:
        total = sum(value for _, value in waited)
        said += f" It waited for images {words.percent_text(total / (total + seconds))} of the time."
    return said


def _evaluations(body: Mapping[str, Any], name: str, steps: Sequence[Mapping[str, Any]], key: str) -> Figure:
    metric = key.removeprefix(_VAL)
    scale, unit = (1, "nats") if metric == "loss" else (100, "%")
    shown = tuple((step, scale * value) for step, value in _points(steps, key))
    curve = Curve(_on_val(body, metric), shown, dots=True, ring=number(body, "results", "loop", "selected", "step"))
    last, title = number(steps[-1], "step") or shown[-1][0], f"{curve.name} over the steps of {name}"
    return curve_figure([curve], last, f"{words.metric_words(metric)}, {unit}", title)


def _on_val(body: Mapping[str, Any], metric: str) -> str:
    over = ", mean over the ladder of schedules" if text(body, "verb") == "distill" else ""
    return f"{words.metric_words(metric)} on val{over}"

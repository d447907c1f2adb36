"""What distillation did to the same schedules, and how training went step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports.blocks import MACS, Block, Cell, Column, Figure, Missing, Section, Table, Text, word_columns
from tavt_kit.reports.candidates import AccuracyView, accuracy_cell
from tavt_kit.reports.charts import Curve, Rung, curve_chart, curve_legend, ladder_chart, ladder_legend, thinned
from tavt_kit.reports.records import Found, Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import (
    DASH,
    macs_text,
    metric_words,
    percent_text,
    points_interval,
    points_text,
    significant,
)

__all__ = ["ladder_section", "learning_section", "lowered_dense"]


@dataclass(frozen=True, slots=True)
class _Step:
    """One schedule of the ladder, before and after; ``low`` and ``high`` of the paired difference."""

    name: str
    schedule: str
    macs: float | None
    before: AccuracyView | None
    after: AccuracyView | None
    low: float | None
    high: float | None

    @property
    def lift(self) -> float | None:
        """In fractions; None unless both are known."""
        return None if self.before is None or self.after is None else self.after.value - self.before.value


def ladder_section(records: Records) -> Section | Missing:
    """The ladder of the run that distilled."""
    run = next((found.body for found in records.all("run") if sequence(found.body, "results", "before")), None)
    if run is None:
        return Missing("Accuracies before and after distillation", "fgvc-kit distill MODEL")
    steps = _steps(sequence(run, "results", "before"), sequence(run, "results", "after"))
    first = mapping(run, "results", "before", 0, "accuracy")
    split, metric = text(first, "split") or "val", metric_words(text(first, "metric") or "top1")
    blocks: list[Block] = [Text.of(_sentence(steps, metric, split))]
    rungs = [_rung(step) for step in steps if step.before or step.after]
    if rungs:
        title = f"{metric} on {split} before and after distillation"
        blocks.append(Figure(title, ladder_chart(rungs, f"{metric} on {split}, %", title), "", ladder_legend()))
        blocks.append(_table(steps, metric, split))
    return Section("distillation", "What distillation did", tuple(blocks))


def lowered_dense(records: Records) -> str | None:
    """A sentence where distillation took accuracy from the dense model: it changes what "dense" stands for."""
    for found in records.all("run"):
        steps = _steps(sequence(found.body, "results", "before"), sequence(found.body, "results", "after"))
        dense = next((step for step in steps if step.name == "dense"), None)
        if dense is not None and dense.lift is not None and dense.high is not None and dense.high < 0:
            return (
                f"Distillation changed the dense model by {points_text(dense.lift)} points ({dense.before} to "
                f"{dense.after}), so what is called dense here is less accurate than the model that was given."
            )
    return None


def _steps(before: Sequence[Any], after: Sequence[Any]) -> list[_Step]:
    """The rungs of both ladders, by name."""
    later = {text(entry, "name"): entry for entry in after}
    return [
        _Step(
            text(entry, "name") or DASH,
            counts_text([count for count in sequence(entry, "schedule") if isinstance(count, int)]),
            number(entry, "macs"),
            AccuracyView.of(mapping(entry, "accuracy"), "value"),
            AccuracyView.of(mapping(later.get(text(entry, "name")), "accuracy"), "value"),
            number(later.get(text(entry, "name")), "difference", "ci95", 0),
            number(later.get(text(entry, "name")), "difference", "ci95", 1),
        )
        for entry in before
    ]


def _sentence(steps: Sequence[_Step], metric: str, split: str) -> str:
    """What happened to each schedule, and how many of the changes are beyond doubt."""
    known = [step for step in steps if step.lift is not None]
    if not known:
        return f"Distillation has not ended, so there is only the {metric} on {split} before it."
    lifted = sum(step.low is not None and step.low > 0 for step in known)
    lowered = [step.name for step in known if step.high is not None and step.high < 0]
    lead = f"lifted {lifted} of {len(known)} schedules beyond doubt (paired 95 % interval above 0)"
    if lowered:
        lead += f" and lowered {', '.join(lowered)}"
    parts = [f"{step.name} {step.before} to {step.after}" for step in known]
    return f"In-place distillation {lead}. {metric.capitalize()} on {split}: {'; '.join(parts)}."


def _rung(step: _Step) -> Rung:
    before, after = step.before, step.after
    return Rung(
        step.name,
        before.value if before else None,
        before.bar if before else None,
        after.value if after else None,
        after.bar if after else None,
    )


def _table(steps: Sequence[_Step], metric: str, split: str) -> Table:
    columns = (
        *word_columns("Schedule"),
        MACS,
        Column("Before", hint="95 %"),
        Column("After", hint="95 %"),
        Column("Lift", hint="points, paired"),
    )
    rows = [
        (
            Cell(step.name, step.schedule),
            Cell(macs_text(step.macs)),
            accuracy_cell(step.before),
            accuracy_cell(step.after),
            Cell(points_text(step.lift), points_interval(step.low, step.high)),
        )
        for step in steps
    ]
    return Table(columns, tuple(rows), f"{metric} on the {split} split, before and after distillation.", folded=True)


_OTHER = ("step", "loss", "lr", "gradient_norm", "loss_scale", "images_per_second", "seconds_waiting")
"""What a line holds beside evaluations and the terms of the loss."""

_WORDS = {
    "cross_entropy": "cross-entropy of the full network",
    "kl_smallest": "divergence of the smallest",
    "kl_random": "divergence of random sub-networks",
}
_VAL = "val_"


def learning_section(records: Records) -> Section | Missing:
    """The curves of every run that was trained step by step."""
    blocks: list[Block] = []
    for run in records.all("run"):
        blocks += _run(run, records.steps.get(run.path, ()))
    if not blocks:
        return Missing("Learning curves", "fgvc-kit distill MODEL")
    return Section("learning", "How training went", tuple(blocks))


def _run(run: Found, steps: Sequence[Mapping[str, Any]]) -> list[Block]:
    losses = _points(steps, "loss")
    if not losses:
        return []
    what = "distillation" if text(run.body, "verb") == "distill" else "fine-tuning"
    name = f"{what} by the recipe {text(run.body, 'asked', 'recipe') or DASH}"
    terms = [key for key in steps[0] if key not in _OTHER and not key.startswith(_VAL)]
    curves = [thinned("loss", losses, spread=True)]
    curves += [thinned(_WORDS.get(term, term), points) for term in terms if (points := _points(steps, term))]
    title = f"loss over the steps of {name}"
    blocks: list[Block] = [
        Text.of(_training_sentence(run.body, name, steps, losses)),
        Figure(title, curve_chart(curves[:4], losses[-1][0], "loss", title), "", curve_legend(curves[:4])),
    ]
    return blocks + [_evaluations(run.body, name, steps, metric) for metric in _metrics(steps)]


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    found = ((number(line, "step"), number(line, name)) for line in steps)
    return [(step, value) for step, value in found if step is not None and value is not None]


def _metrics(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of what was evaluated on the way."""
    names = dict.fromkeys(key for line in steps for key in line if key.startswith(_VAL))
    return [key.removeprefix(_VAL) for key in names if _points(steps, key)]


def _training_sentence(
    body: Mapping[str, Any], name: str, steps: Sequence[Mapping[str, Any]], losses: Sequence[tuple[float, float]]
) -> str:
    share = max(1, len(losses) // 10)
    first, last = (fmean(value for _, value in part) for part in (losses[:share], losses[-share:]))
    asked = whole(body, "asked", "steps")
    done = f"{losses[-1][0]:.0f}"
    made = f"{done} steps" if asked is None or f"{asked}" == done else f"{done} of {asked} steps"
    if made != f"{done} steps" and mapping(body, "results", "loop"):
        made += " (patience ran out)"
    values = f"from {significant(first)} to {significant(last)} (means of the first and the last tenth)"
    fell = "the loss fell" if last < first else "the loss did not fall: it went"
    return f"{name[0].upper()}{name[1:]}: {made}; {fell} {values}.{_selected(body)}{_waiting(body, steps)}"


def _selected(body: Mapping[str, Any]) -> str:
    selected = mapping(body, "results", "loop", "selected")
    metric, value, step = text(selected, "metric"), number(selected, "value"), whole(selected, "step")
    if metric is None or value is None or step is None:
        return ""
    return (
        f" The weights are those of step {step}, the best by {_on_val(body, metric)} ({_metric_text(metric, value)})."
    )


def _waiting(body: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    waited = [value for _, value in _points(steps, "seconds_waiting")]
    seconds = number(body, "results", "loop", "seconds")
    if not waited or not seconds:
        return ""
    return f" It waited for pictures {percent_text(sum(waited) / (sum(waited) + seconds))} of the time."


def _metric_text(metric: str, value: float) -> str:
    return significant(value) if metric == "loss" else percent_text(value)


def _evaluations(body: Mapping[str, Any], name: str, steps: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    scale, unit = (1, "nats") if metric == "loss" else (100, "%")
    shown = tuple((step, scale * value) for step, value in _points(steps, f"{_VAL}{metric}"))
    curve = Curve(_on_val(body, metric), shown, dots=True, ring=number(body, "results", "loop", "selected", "step"))
    title = f"{curve.name} over the steps of {name}"
    last = number(steps[-1], "step") or shown[-1][0]
    return Figure(
        title, curve_chart([curve], last, f"{metric_words(metric)}, {unit}", title), "", curve_legend([curve])
    )


def _on_val(body: Mapping[str, Any], metric: str) -> str:
    over = ", mean over the ladder of schedules" if text(body, "verb") == "distill" else ""
    return f"{metric_words(metric)} on val{over}"

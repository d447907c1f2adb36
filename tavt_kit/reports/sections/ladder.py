"""Did distillation lift the dropped sub-networks: the same schedules before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.charts import Rung, ladder_chart, ladder_legend
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import DASH, macs_text, points_text
from tavt_kit.reports.views import AccuracyView, mapping, number, sequence, text
from tavt_kit.reports.words import metric_words

__all__ = ["ladder_section", "lowered_dense"]

_ANCHOR, _TITLE = "distillation", "What distillation did"


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
    return Section(_ANCHOR, _TITLE, tuple(blocks))


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
    return Rung(step.name, *_value(step.before), *_value(step.after))


def _value(accuracy: AccuracyView | None) -> tuple[float | None, tuple[float, float] | None]:
    if accuracy is None:
        return None, None
    known = accuracy.low is not None and accuracy.high is not None
    return accuracy.value, (accuracy.low or 0.0, accuracy.high or 0.0) if known else None


def _table(steps: Sequence[_Step], metric: str, split: str) -> Table:
    columns = (
        Column("Schedule", numeric=False),
        Column("MACs", hint="of one image"),
        Column("Before", hint="95 %"),
        Column("After", hint="95 %"),
        Column("Lift", hint="points, paired"),
    )
    rows = [
        (
            Cell(step.name, step.schedule),
            Cell(macs_text(step.macs)),
            Cell(DASH) if step.before is None else Cell(str(step.before), step.before.interval),
            Cell(DASH) if step.after is None else Cell(str(step.after), step.after.interval),
            Cell(points_text(step.lift), _interval(step)),
        )
        for step in steps
    ]
    return Table(columns, tuple(rows), f"{metric} on the {split} split, before and after distillation.", folded=True)


def _interval(step: _Step) -> str:
    return "" if step.low is None or step.high is None else f"{points_text(step.low)} to {points_text(step.high)}"

"""Is what was exported still the model: every checked file beside its source, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tavt_kit.device import TargetDevice
from tavt_kit.errors import TargetError
from tavt_kit.reports.blocks import Block, Cell, Column, Missing, Section, Table, Text
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import DASH, n_text, percent_text, points_text, significant
from tavt_kit.reports.views import AccuracyView, mapping, number, sequence, text
from tavt_kit.reports.words import metric_words, target_words
from tavt_kit.schedule import counts_text

__all__ = ["checks_section", "failed_checks"]

_ANCHOR, _TITLE = "exported", "The exported files"


def checks_section(records: Records) -> Section | Missing:
    """Every check of every ``check.json``."""
    checks = _checks(records)
    if not checks:
        return Missing("Exported files, checked against their source", "fgvc-kit export RUN")
    blocks: list[Block] = [_table(checks)]
    blocks += [
        Text.of(f"{name}: {reason}.", kind="note")
        for name, check in checks
        # Of a file that passed without an exception the table says as much.
        if (reason := text(check, "reason")) and (text(check, "verdict") != "PASS" or number(check, "strayed"))
    ]
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def failed_checks(records: Records, counts: Sequence[int]) -> list[str]:
    """A sentence for each file of this schedule whose check did not pass; a headline must not leave it out."""
    return [
        f"The check of {name} says {text(check, 'verdict')}: {text(check, 'reason')}."
        for name, check in _checks(records)
        if text(check, "verdict") not in (None, "PASS") and list(sequence(check, "schedule")) == list(counts)
    ]


def _checks(records: Records) -> list[tuple[str, Mapping[str, Any]]]:
    """All entries by name; several exports are told apart by their folders."""
    found = records.all("check")
    named = [(one, check) for one in found for check in sequence(one.body, "checks") if isinstance(check, Mapping)]
    folders = {one.path.parent for one, _ in named}
    return [
        (f"{one.path.parent.name}/{file}" if len(folders) > 1 else file, check)
        for one, check in named
        for file in (text(check, "artifact") or "?",)
    ]


def _table(checks: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    accuracies = [mapping(check, "artifact_top1") for _, check in checks]
    metric = metric_words(text(accuracies[0], "metric") or "top1")
    splits = {(text(accuracy, "split"), number(accuracy, "n")) for accuracy in accuracies}
    columns = (
        Column("File", numeric=False),
        Column("Ran as", numeric=False),
        Column("Source", hint=f"{metric}, 95 %"),
        Column("File", hint=f"{metric}, 95 %"),
        Column("Change", hint="points, paired"),
        Column("Agreement"),
        Column("Logits differ", hint="of the largest"),
        Column("Verdict", numeric=False),
    )
    split, n = splits.pop()
    images = f" of the {split} split, {n_text(n)}" if not splits and split and n else ""
    caption = f"Each file and its source, the same schedule in torch f32, on the same images{images}."
    return Table(columns, tuple(_row(name, check) for name, check in checks), caption)


def _row(name: str, check: Mapping[str, Any]) -> tuple[Cell, ...]:
    counts = [count for count in sequence(check, "schedule") if isinstance(count, int)]
    difference = mapping(check, "difference")
    low, high = number(difference, "ci95", 0), number(difference, "ci95", 1)
    interval = f"{points_text(low)} to {points_text(high)}" if low is not None and high is not None else ""
    return (
        Cell(name, counts_text(counts) if counts else "", code=True),
        Cell(_executed(check)),
        _accuracy(check, "source_top1"),
        _accuracy(check, "artifact_top1"),
        Cell(points_text(number(difference, "difference")), interval),
        Cell(percent_text(number(check, "agreement"))),
        Cell(_share(check)),
        Cell(text(check, "verdict") or DASH, badge=text(check, "verdict") is not None),
    )


def _executed(check: Mapping[str, Any]) -> str:
    """Where it ran, in the precision that really ran."""
    said = text(check, "executed")
    try:
        return target_words(TargetDevice.parse(said).as_record()) if said else DASH
    except TargetError:
        return said or DASH


def _accuracy(check: Mapping[str, Any], name: str) -> Cell:
    accuracy = AccuracyView.of(mapping(check, name), "value")
    return Cell(DASH) if accuracy is None else Cell(str(accuracy), accuracy.interval)


def _share(check: Mapping[str, Any]) -> str:
    """The largest difference of two logits as a share of the largest logit."""
    largest, scale = number(check, "largest_difference"), number(check, "scale")
    if largest is None or not scale:
        return DASH
    share = largest / scale
    return f"{significant(100 * share, 2)}\u00a0%" if share >= 1e-4 else f"{share:.0e}"

"""Is what was exported still the model: every checked file beside its source, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tavt_kit.device import TargetDevice
from tavt_kit.errors import TargetError
from tavt_kit.reports.blocks import Block, Cell, Column, Missing, Section, Table, Text
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import DASH, percent_text, points_text, significant
from tavt_kit.reports.views import AccuracyView, mapping, number, sequence, text
from tavt_kit.reports.words import metric_words, target_words
from tavt_kit.schedule import counts_text

__all__ = ["checks_section", "failed_checks"]

_ANCHOR, _TITLE = "exported", "The exported files"


def checks_section(records: Records) -> Section | Missing:
    """Every check of every ``check.json``."""
    checks = list(_checks(records))
    if not checks:
        return Missing("Exported files, checked against their source", "fgvc-kit export RUN")
    first = mapping(checks[0], "artifact_top1")
    metric, split = metric_words(text(first, "metric") or "top1"), text(first, "split") or "?"
    blocks: list[Block] = [_table(checks, metric, split)]
    blocks += [
        Text.of(f"{text(check, 'artifact') or 'a file'}: {reason}.", kind="note")
        for check in checks
        if (reason := text(check, "reason"))
    ]
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def failed_checks(records: Records) -> list[str]:
    """A sentence for each file whose check did not pass; a headline must not leave it out."""
    open_ones = [check for check in _checks(records) if text(check, "verdict") not in (None, "PASS")]
    return [
        f"The check of {text(check, 'artifact') or '?'} says {text(check, 'verdict')}: {text(check, 'reason')}."
        for check in open_ones
    ]


def _checks(records: Records) -> Iterator[Mapping[str, Any]]:
    """All entries, a file checked twice only as it was found first."""
    seen = set()
    for found in records.all("check"):
        for check in sequence(found.body, "checks"):
            name = text(check, "artifact"), str(mapping(check, "sha256"))
            if isinstance(check, Mapping) and name not in seen:
                seen.add(name)
                yield check


def _table(checks: list[Mapping[str, Any]], metric: str, split: str) -> Table:
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
    n = number(checks[0], "artifact_top1", "n")
    images = f", n = {n:.0f}" if n else ""
    caption = (
        f"Each file and its source, the same schedule in torch f32, on the same images of the {split} split{images}."
    )
    return Table(columns, tuple(_row(check) for check in checks), caption)


def _row(check: Mapping[str, Any]) -> tuple[Cell, ...]:
    counts = [count for count in sequence(check, "schedule") if isinstance(count, int)]
    difference = mapping(check, "difference")
    low, high = number(difference, "ci95", 0), number(difference, "ci95", 1)
    interval = f"{points_text(low)} to {points_text(high)}" if low is not None and high is not None else ""
    return (
        Cell(text(check, "artifact") or DASH, counts_text(counts) if counts else "", code=True),
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

"""Is what was exported still the model: every checked file beside its source, on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import TargetError
from tavt_kit.reports.blocks import Block, Cell, Column, Missing, Section, Table, Text
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import DASH, n_text, percent_text, points_text, significant
from tavt_kit.reports.views import AccuracyView, mapping, number, sequence, text
from tavt_kit.reports.words import metric_words, target_words

__all__ = ["checks_section", "failed_checks"]

_ANCHOR, _TITLE = "exported", "The exported files"


def checks_section(records: Records) -> Section | Missing:
    """Every check of every ``check.json``."""
    checks = _checks(records)
    if not checks:
        return Missing("Exported files, checked against their source", "fgvc-kit export RUN")
    blocks: list[Block] = [_table(checks)]
    if counted := [(name, check) for name, check in checks if mapping(check, "macro_f1")]:
        blocks.append(_more(counted))
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


def _more(checks: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """What was counted beside top-1; of each pair the source's comes first."""
    columns = (
        Column("File", numeric=False),
        Column("Top-5"),
        Column("Macro F1"),
        Column("Calibration error", hint="15 bins"),
        Column("McNemar", hint="p"),
        Column("Worst-hit class", numeric=False),
        Column("Confusion that grew most", numeric=False),
    )
    rows = tuple(
        (
            Cell(name, code=True),
            Cell(_pair(check, "top5", "value")),
            Cell(_pair(check, "macro_f1")),
            Cell(_pair(check, "calibration_error")),
            Cell(DASH if (p := number(check, "mcnemar_p")) is None else significant(p, 2)),
            _worst_hit(check),
            _grown(check),
        )
        for name, check in checks
    )
    return Table(columns, rows, "The same answers counted in other ways: source → file.")


def _pair(record: Mapping[str, Any], *path: str) -> str:
    first, *rest = path
    before, after = (number(record, first, side, *rest) for side in ("source", "artifact"))
    return DASH if before is None or after is None else f"{percent_text(before)} → {percent_text(after)}"


def _worst_hit(check: Mapping[str, Any]) -> Cell:
    name = text(check, "worst_hit", 0)
    found = [one for one in sequence(check, "classes") if text(one, "class") == name]
    if name is None or not found:
        return Cell("none")
    before, after, n = (number(found[0], key) for key in ("source", "artifact", "n"))
    if before is None or after is None or n is None:
        return Cell(name)
    return Cell(name, f"{percent_text(before)} → {percent_text(after)}, {n_text(n)}")


def _grown(check: Mapping[str, Any]) -> Cell:
    grown = sequence(check, "confusions_grown")
    one = grown[0] if grown else None
    truth, said = text(one, "truth"), text(one, "said")
    before, after = number(one, "source"), number(one, "artifact")
    if truth is None or said is None or before is None or after is None:
        return Cell("none")
    return Cell(f"{truth} taken for {said}", f"{before:.0f} → {after:.0f} images")


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

"""The exported files: each beside its source on the same images, and what each class lost against dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import TargetError
from tavt_kit.reports.blocks import VERDICT, Block, Cell, Column, Figure, Missing, Section, Table, Text, word_columns
from tavt_kit.reports.candidates import AccuracyView, FrontView, accuracy_cell, difference_cell, verdict_cell
from tavt_kit.reports.charts import change_bar
from tavt_kit.reports.evaluated import data_uri
from tavt_kit.reports.markup import el
from tavt_kit.reports.records import Records, mapping, number, sequence, text
from tavt_kit.reports.words import (
    DASH,
    metric_words,
    n_text,
    percent_text,
    plural,
    points_text,
    significant,
    target_words,
)

__all__ = ["checks_section", "classes_section", "failed_checks"]


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
    return Section("exported", "The exported files", tuple(blocks))


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
        *word_columns("File", "Ran as"),
        Column("Source", hint=f"{metric}, 95 %"),
        Column("File", hint=f"{metric}, 95 %"),
        Column("Change", hint="points, paired"),
        Column("Agreement"),
        Column("Logits differ", hint="of the largest"),
        VERDICT,
    )
    split, n = splits.pop()
    images = f" of the {split} split, {n_text(n)}" if not splits and split and n else ""
    caption = f"Each file and its source, the same schedule in torch f32, on the same images{images}."
    return Table(columns, tuple(_row(name, check) for name, check in checks), caption)


def _more(checks: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """What was counted beside top-1; of each pair the source's comes first."""
    columns = (
        *word_columns("File"),
        Column("Top-5"),
        Column("Macro F1"),
        Column("Calibration error", hint="15 bins"),
        Column("McNemar", hint="p"),
        *word_columns("Worst-hit class", "Confusion that grew most"),
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
    return (
        Cell(name, counts_text(counts) if counts else "", code=True),
        Cell(_executed(check)),
        _accuracy(check, "source_top1"),
        _accuracy(check, "artifact_top1"),
        difference_cell(mapping(check, "difference")),
        Cell(percent_text(number(check, "agreement"))),
        Cell(_share(check)),
        verdict_cell(text(check, "verdict")),
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
    return accuracy_cell(accuracy)


def _share(check: Mapping[str, Any]) -> str:
    """The largest difference of two logits as a share of the largest logit."""
    largest, scale = number(check, "largest_difference"), number(check, "scale")
    if largest is None or not scale:
        return DASH
    share = largest / scale
    return f"{significant(100 * share, 2)}\u00a0%" if share >= 1e-4 else f"{share:.0e}"


_WORST, _SHOWN = 10, 12


def classes_section(records: Records) -> Section | Missing:
    """The losses against dense of the chosen schedule's first checked file."""
    found = _check(records)
    if found is None:
        return Missing("Accuracy by class, and the pictures that became wrong", "fgvc-kit export RUN")
    place, check = found
    losses = mapping(check, "losses")
    classes = [one for one in sequence(losses, "classes") if number(one, "dense") is not None]
    split, file = text(check, "artifact_top1", "split") or "?", text(check, "artifact") or "?"
    hit = sorted((one for one in classes if _change(one) < 0), key=lambda one: (_change(one), -_images(one)))
    blocks: list[Block] = [Text.of(_sentence(check, classes, hit, split))]
    if hit:
        few = f"The {len(hit[:_WORST])} that lost most; " if len(hit) > _WORST else "Those that lost, "
        blocks.append(_classes(hit[:_WORST], f"{few}images of the {split} split, dense model against {file}.", False))
    if len(classes) > len(hit[:_WORST]):
        blocks.append(_classes(classes, f"All {len(classes)} classes with images.", True))
    grown = [one for one in sequence(losses, "confusions_grown") if text(one, "truth") and text(one, "said")]
    if grown:
        blocks.append(_confusions(grown))
    examples = [one for one in sequence(losses, "examples") if isinstance(one, Mapping)][:_SHOWN]
    if pictures := _pictures(examples, place.parent):
        blocks.append(pictures)
    return Section("classes", "What each class lost", tuple(blocks))


def _check(records: Records) -> tuple[Path, Mapping[str, Any]] | None:
    """Of the chosen schedule (of any where there is no search), the first file that was compared with dense."""
    front = records.first("front")
    pick = FrontView.of(front).pick if front else None
    for one in records.all("check"):
        for check in sequence(one.body, "checks"):
            if not sequence(check, "losses", "classes"):
                continue
            if pick is None or list(sequence(check, "schedule")) == list(pick.counts):
                return one.path, check
    return None


def _change(one: Mapping[str, Any]) -> float:
    return (number(one, "artifact") or 0.0) - (number(one, "dense") or 0.0)


def _images(one: Mapping[str, Any]) -> float:
    return number(one, "n") or 0.0


def _sentence(check: Mapping[str, Any], classes: Sequence[Any], hit: Sequence[Any], split: str) -> str:
    difference = mapping(check, "against_dense")
    value, lost, gained = (number(difference, key) for key in ("difference", "lost", "gained"))
    if value is None or lost is None or gained is None:
        return f"{plural(len(hit), 'class', 'classes')} of {len(classes)} lost accuracy."
    return (
        f"Against the dense model the file changes top-1 on {split} by {points_text(value)} points: {lost:.0f} images "
        f"became wrong and {gained:.0f} right. {len(hit)} of {plural(len(classes), 'class', 'classes')} lost; with few "
        "images in a class a change of one image is no more than chance."
    )


def _classes(rows: Sequence[Mapping[str, Any]], caption: str, folded: bool) -> Table:
    columns = (
        *word_columns("Class"),
        Column("Images"),
        *word_columns(""),
        Column("Dense"),
        Column("File"),
        Column("Change", hint="points"),
    )
    return Table(columns, tuple(_class_row(one) for one in rows), caption, folded=folded)


def _class_row(one: Mapping[str, Any]) -> tuple[Cell, ...]:
    before, after = number(one, "dense") or 0.0, number(one, "artifact") or 0.0
    words = f"from {percent_text(before)} to {percent_text(after)}"
    return (
        Cell(text(one, "class") or "?"),
        Cell(f"{_images(one):.0f}"),
        Cell("", picture=change_bar(before, after, words)),
        Cell(percent_text(before)),
        Cell(percent_text(after)),
        Cell(points_text(after - before)),
    )


def _confusions(grown: Sequence[Mapping[str, Any]]) -> Table:
    columns = (*word_columns("Class", "taken for"), Column("Dense"), Column("File"))
    rows = [
        (
            *(Cell(text(one, key) or "") for key in ("truth", "said")),
            *(Cell(f"{number(one, key) or 0:.0f}") for key in ("dense", "artifact")),
        )
        for one in grown
    ]
    return Table(columns, tuple(rows), "Confusions that grew, in images.")


def _pictures(examples: Sequence[Mapping[str, Any]], folder: Path) -> Figure | None:
    items = [item for one in examples if (item := _picture(one, folder))]
    if not items:
        return None
    caption = (
        f"{plural(len(items), 'picture')} that the dense model has right and the file wrong, as the model sees them."
    )
    return Figure("pictures that became wrong", el("ul", *items, class_="wrong"), caption, scrolls=False)


def _picture(one: Mapping[str, Any], folder: Path) -> Markup | None:
    source, truth, said = data_uri(folder, text(one, "thumbnail")), text(one, "truth"), text(one, "said")
    if source is None or truth is None or said is None:
        return None
    image = el("image", href=source, width=100, height=100)
    picture = el("svg", image, viewBox="0 0 100 100", role="img", aria_label=f"{truth}, taken for {said}")
    return el("li", picture, el("strong", truth), el("br"), f"taken for {said}", el("code", text(one, "file") or ""))

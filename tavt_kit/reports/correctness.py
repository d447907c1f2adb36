"""What is right: exported files beside their source, what each class lost against dense, what ``eval`` counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import TargetError
from tavt_kit.reports import columns, words
from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Rule, Section, Table, Text
from tavt_kit.reports.candidates import FrontView
from tavt_kit.reports.images import data_uri
from tavt_kit.reports.markup import el
from tavt_kit.reports.records import Records, integers, mapping, number, objects, sequence, text

_Entry = Mapping[str, Any]
"""An entry of a record: a checked file, a class, a pair of classes."""


def checks_section(records: Records) -> Section | Missing:
    """Every check of every ``check.json``."""
    checks = _checks(records)
    if not checks:
        return Missing("Exported files, checked against their source", "fgvc-kit export RUN")
    accuracies = [mapping(check, "artifact_top1") for _, check in checks]
    hint = f"{words.metric_words(text(accuracies[0], 'metric') or 'top1')}, 95 %"
    (split, n), *others = {(text(accuracy, "split"), number(accuracy, "n")) for accuracy in accuracies}
    images = f" of the {split} split, {words.n_text(n)}" if not others and split and n else ""
    table = Table.of(
        checks,
        f"Each file and its source, the same schedule in torch f32, on the same images{images}.",
        ("File", lambda row: Cell(row[0], counts_text(integers(row[1], "schedule")), code=True)),
        ("Ran as", lambda row: _executed(text(row[1], "executed"))),
        (Column("Images", hint="split"), lambda row: _images(mapping(row[1], "artifact_top1")) if others else ""),
        (Column("Source", hint=hint), lambda row: columns.recorded_accuracy(row[1], "source_top1")),
        (Column("File", hint=hint), lambda row: columns.recorded_accuracy(row[1], "artifact_top1")),
        (Column("Change", hint="points, paired"), lambda row: columns.recorded_difference(row[1])),
        (Column("Agreement"), lambda row: words.percent_text(number(row[1], "agreement"))),
        (Column("Logits differ", hint="of the largest"), lambda row: _logits_differ(row[1])),
        ("Verdict", lambda row: columns.verdict(text(row[1], "verdict"))),
    )
    notes = [
        Text.of(f"{name}: {reason}.", kind="note")
        for name, check in checks
        # Of a file that passed without an exception the table says as much; fewer bits always change the logits.
        if (reason := text(check, "reason"))
        and (text(check, "verdict") != "PASS" or (number(check, "strayed") and text(check, "precision") == "f32"))
    ]
    verdicts = ", ".join(dict.fromkeys(text(check, "verdict") or "?" for _, check in checks))
    gist = f"{words.plural(len(checks), 'file')}: {verdicts}"
    return Section("exported", "The exported files", (table, *notes), gist)


def _images(accuracy: _Entry) -> Cell:
    """How many, above their split."""
    n = number(accuracy, "n")
    return Cell(words.DASH if n is None else f"{n:.0f}", text(accuracy, "split") or "")


def failed_checks(records: Records, counts: Sequence[int]) -> list[str]:
    """A sentence for each file of this schedule whose check did not pass; a headline must not leave it out."""
    return [
        f"The check of {name} says {text(check, 'verdict')}: {text(check, 'reason')}."
        for name, check in _checks(records)
        if text(check, "verdict") not in (None, "PASS") and list(sequence(check, "schedule")) == list(counts)
    ]


def _checks(records: Records) -> list[tuple[str, _Entry]]:
    """All checked files by name; several exports are told apart by their folders."""
    named = records.entries("check", "checks")
    many = len({folder for folder, _ in named}) > 1
    return [
        (f"{folder.name}/{file}" if many else file, check)
        for folder, check in named
        for file in (text(check, "artifact") or "?",)
    ]


def _executed(said: str | None) -> str:
    """Where it ran, in the precision that really ran."""
    try:
        return words.target_words(TargetDevice.parse(said).as_record()) if said else words.DASH
    except TargetError:
        return said or words.DASH


def _logits_differ(check: _Entry) -> str:
    """The largest difference of two logits as a share of the largest logit."""
    largest, scale = number(check, "largest_difference"), number(check, "scale")
    if largest is None or not scale:
        return words.DASH
    share = largest / scale
    return f"{words.significant(100 * share, 2)}\u00a0%" if share >= 1e-4 else f"{share:.0e}"


_WORST, _SHOWN = 10, 12
"""Classes that lost most, and images that became wrong."""


def classes_section(records: Records) -> Section | Missing:
    """The losses against dense of the chosen schedule's first checked file, of any where there is no search."""
    front = records.first("front")
    pick = FrontView(front).pick if front else None
    compared = (
        (folder, check)
        for folder, check in records.entries("check", "checks")
        if sequence(check, "losses", "classes")
        and (pick is None or list(sequence(check, "schedule")) == list(pick.counts))
    )
    folder, check = next(compared, (Path(), None))
    if check is None:
        return Missing("Accuracy by class, and the images that became wrong", "fgvc-kit export RUN")
    losses = mapping(check, "losses")
    classes = [row for row in objects(losses, "classes") if number(row, "dense") is not None]
    split, file = text(check, "artifact_top1", "split") or "?", text(check, "artifact") or "?"
    hit = sorted((row for row in classes if _change(row) < 0), key=lambda row: (_change(row), -_count(row, "n")))
    worst, every = hit[:_WORST], words.plural(len(classes), "class", "classes")
    value, lost, gained = (number(check, "against_dense", key) for key in ("difference", "lost", "gained"))
    said = f"{words.plural(len(hit), 'class', 'classes')} of {len(classes)} lost accuracy."
    if value is not None and lost is not None and gained is not None:
        said = (
            f"Against the dense model the file changes top-1 on {split} by {words.points_text(value)} points: "
            f"{lost:.0f} images became wrong and {gained:.0f} right. {len(hit)} of {every} lost; with few images in a "
            "class a change of one image is no more than chance."
        )
    blocks: list[Block] = [Text.of(said)]
    if hit:
        few = f"The {len(worst)} that lost most; " if len(hit) > _WORST else "Those that lost, "
        blocks.append(_classes(worst, f"{few}images of the {split} split, dense model against {file}.", folded=False))
    if len(classes) > len(worst):
        blocks.append(_classes(classes, f"All {len(classes)} classes with images.", folded=True))
    grown = [row for row in objects(losses, "confusions_grown") if text(row, "truth") and text(row, "said")]
    table = Table.of(
        grown,
        "Confusions that grew, in images.",
        ("Class", lambda row: text(row, "truth") or ""),
        ("taken for", lambda row: text(row, "said") or ""),
        (Column("Dense"), lambda row: f"{_count(row, 'dense'):.0f}"),
        (Column("File"), lambda row: f"{_count(row, 'artifact'):.0f}"),
    )
    blocks += [table] if grown else []
    wrong = _wrong(objects(losses, "examples"), folder)
    return Section("classes", "What each class lost", (*blocks, *wrong), f"{len(hit)} of {every} lost")


def _count(row: _Entry, name: str) -> float:
    return number(row, name) or 0.0


def _change(row: _Entry) -> float:
    return _count(row, "artifact") - _count(row, "dense")


def _classes(rows: Sequence[_Entry], caption: str, *, folded: bool) -> Table:
    return Table.of(
        rows,
        caption,
        ("Class", lambda row: text(row, "class") or "?"),
        (Column("Images"), lambda row: f"{_count(row, 'n'):.0f}"),
        (Column("Dense"), lambda row: words.percent_text(_count(row, "dense"))),
        (Column("File"), lambda row: words.percent_text(_count(row, "artifact"))),
        (Column("Change", hint="points"), lambda row: words.points_text(_change(row))),
        folded=folded,
    )


def _wrong(examples: Sequence[_Entry], folder: Path) -> list[Figure]:
    """The images that became wrong."""
    items = []
    for example in examples[:_SHOWN]:
        source, truth, said = (
            data_uri(folder, text(example, "thumbnail")),
            text(example, "truth"),
            text(example, "said"),
        )
        if source is not None and truth is not None and said is not None:
            image = el("image", href=source, width=100, height=100)
            drawn = el("svg", image, viewBox="0 0 100 100", role="img", aria_label=f"{truth}, taken for {said}")
            file = el("code", text(example, "file") or "")
            items.append(el("li", drawn, el("strong", truth), el("br"), f"taken for {said}", file))
    count = words.plural(len(items), "image")
    caption = f"{count} that the dense model has right and the file wrong, as the model sees them."
    return [Figure("images that became wrong", el("ul", *items, class_="wrong"), caption)] if items else []


_LISTED = 10


def evaluated_section(records: Records) -> Section | None:
    """Every ``eval.json``, and of the first the classes and images; None where there is none."""
    evaluations = records.all("eval")
    if not evaluations:
        return None
    first = evaluations[0].body
    tables = (_accuracies([record.body for record in evaluations]), _recalls(first), _confusions(first), _heads(first))
    blocks: list[Block] = [table for table in tables if table.rows]
    if (best := mapping(first, "heads", "official")) and (name := text(best, "name")):
        top1 = _percent(best, "top1", "value")
        said = f"The official code reports the best of its names, here {name}: {top1}; a choice made on that split."
        blocks.append(Text.of(said, kind="note"))
    gist = f"{_percent(first, 'top1', 'value')} top-1 on {text(first, 'top1', 'split') or '?'}"
    return Section("evaluated", "What it has right", tuple(blocks), gist)


def _percent(record: _Entry, *path: str) -> str:
    return words.percent_text(number(record, *path))


def _accuracies(bodies: list[_Entry]) -> Table:
    def accuracy(title: str, name: str) -> Rule[_Entry]:
        return Column(title, hint="95 %"), lambda row: columns.recorded_accuracy(row, name)

    return Table.of(
        bodies,
        "Accuracies with their 95 % intervals.",
        ("Evaluated", lambda row: Cell(text(row, "thing") or "?", text(row, "schedule") or "", code=True)),
        (Column("Images", hint="split"), lambda row: _images(mapping(row, "top1"))),
        accuracy("Top-1", "top1"),
        accuracy("Top-5", "top5"),
        accuracy("Macro F1", "macro_f1"),
        (Column("Calibration error", hint="15 bins"), lambda row: _percent(row, "calibration", "error")),
    )


def _recalls(record: _Entry) -> Table:
    """The classes with the least recall."""
    recall, precision = mapping(record, "recall"), mapping(record, "precision")
    known = {str(name): value for name in recall if (value := number(recall, name, "value")) is not None}
    names = sorted(known, key=lambda name: known[name])[:_LISTED]
    few = f"The {len(names)} classes of {len(known)} that are found least."

    return Table.of(
        names,
        few if len(known) > len(names) else "Every class.",
        ("Class", lambda name: Cell(name, "" if (n := number(recall, name, "n")) is None else words.n_text(n))),
        (Column("Recall", hint="95 %"), lambda name: columns.recorded_accuracy(recall, name)),
        (Column("Precision", hint="95 %"), lambda name: columns.recorded_accuracy(precision, name)),
        (Column("F1"), lambda name: _percent(record, "f1", name)),
    )


def _confusions(record: _Entry) -> Table:
    def files(row: _Entry) -> Cell:
        return Cell(", ".join(file for each in sequence(row, "examples") if (file := text(each, "file"))), code=True)

    return Table.of(
        objects(record, "confusions"),
        "The pairs that are taken for one another most often.",
        ("Class", lambda row: text(row, "truth") or "?"),
        ("Taken for", lambda row: text(row, "said") or "?"),
        (Column("Images"), lambda row: f"{_count(row, 'count'):.0f} of {_count(row, 'n'):.0f}"),
        ("Such as", files),
    )


def _heads(record: _Entry) -> Table:
    """What each of PIM's heads has right, then the sums of their probabilities."""
    heads, tokens = mapping(record, "heads"), mapping(record, "heads", "tokens")
    rows = [*(("heads", str(name)) for name in mapping(heads, "heads")),
            *(("fused", str(name)) for name in mapping(heads, "fused"))]  # fmt: skip

    return Table.of(
        rows,
        "PIM's heads; highest-k adds up k of them: the surest, or as the official code the least sure.",
        ("Head", lambda row: row[1]),
        (Column("Top-1"), lambda row: _percent(heads, *row, "top1", "value")),
        (Column("Top-3"), lambda row: _percent(heads, *row, "top3", "value")),
        (Column("Top-1", hint="official"), lambda row: _percent(heads, "fused_official", row[1], "top1", "value")),
        (Column("Top-3", hint="official"), lambda row: _percent(heads, "fused_official", row[1], "top3", "value")),
        (Column("Tokens", hint="selected, right"), lambda row: _percent(tokens, f"select_{row[1]}")),
        (Column("Tokens", hint="dropped, right"), lambda row: _percent(tokens, f"drop_{row[1]}")),
    )

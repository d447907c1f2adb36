"""What ``eval`` counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Rule, Section, Table, Text
from tavt_kit.reports.candidates import recorded_accuracy
from tavt_kit.reports.images import recorded_image
from tavt_kit.reports.markup import el
from tavt_kit.reports.records import Found, Records, mapping, number, objects, sequence, text

_Entry = Mapping[str, Any]
_LISTED, _DRAWING_BYTES = 10, 250_000


def evaluated_section(records: Records) -> Section | None:
    """Every ``eval.json``, and of the first the classes and images; None where there is none."""
    found = records.all("eval")
    if not found:
        return None
    first = found[0].body
    tables = (_figures([one.body for one in found]), _classes(first), _confusions(first))
    blocks: list[Block] = [table for table in tables if table.rows]
    top1 = words.percent_text(number(first, "top1", "value"))
    gist = f"{top1} top-1 on {text(first, 'top1', 'split') or '?'}"
    return Section("evaluated", "What it has right", (*blocks[:1], *_drawings(found[0]), *blocks[1:]), gist)


def _accuracy(title: str, *path: str) -> Rule[_Entry]:
    """The column of the accuracy at this path of each entry."""
    return Column(title, hint="95 %"), lambda one: recorded_accuracy(one, *path)


def _percent(record: _Entry, *path: str) -> str:
    return words.percent_text(number(record, *path))


def _figures(bodies: list[_Entry]) -> Table:
    def images(one: _Entry) -> Cell:
        n = number(one, "top1", "n")
        return Cell(words.DASH if n is None else f"{n:.0f}", text(one, "top1", "split") or "")

    return Table.of(
        bodies,
        "Accuracies with their 95 % intervals.",
        ("Evaluated", lambda one: Cell(text(one, "thing") or "?", text(one, "schedule") or "", code=True)),
        (Column("Images", hint="split"), images),
        _accuracy("Top-1", "top1"),
        _accuracy("Top-5", "top5"),
        _accuracy("Macro F1", "macro_f1"),
        (Column("Calibration error", hint="15 bins"), lambda one: _percent(one, "calibration", "error")),
        (Column("Accepted", hint="of a wished precision"), lambda one: _accepted(mapping(one, "reject"))),
    )


def _accepted(reject: _Entry) -> Cell:
    if None in (number(reject, "wanted"), number(reject, "threshold"), number(reject, "coverage", "value")):
        return Cell(words.DASH)
    wished, reached = words.percent_text(number(reject, "wanted"), 0), _percent(reject, "precision", "value")
    small = f"{wished} wished, {reached} reached from {_percent(reject, 'threshold')} on"
    return Cell(_percent(reject, "coverage", "value"), small)


def _classes(record: _Entry) -> Table:
    """The classes with the least recall."""
    recall, precision = mapping(record, "recall"), mapping(record, "precision")
    known = {str(name): value for name in recall if (value := number(recall, name, "value")) is not None}
    names = sorted(known, key=lambda name: known[name])[:_LISTED]
    few = f"The {len(names)} classes of {len(known)} that are found least."

    def name_cell(name: str) -> Cell:
        n = number(recall, name, "n")
        return Cell(name, "" if n is None else words.n_text(n))

    return Table.of(
        names,
        few if len(known) > len(names) else "Every class.",
        ("Class", name_cell),
        (Column("Recall", hint="95 %"), lambda name: recorded_accuracy(recall, name)),
        (Column("Precision", hint="95 %"), lambda name: recorded_accuracy(precision, name)),
        (Column("F1"), lambda name: _percent(record, "f1", name)),
    )


def _confusions(record: _Entry) -> Table:
    def files(one: _Entry) -> Cell:
        return Cell(", ".join(file for each in sequence(one, "examples") if (file := text(each, "file"))), code=True)

    return Table.of(
        objects(record, "confusions"),
        "The pairs that are taken for one another most often.",
        ("Class", lambda one: text(one, "truth") or "?"),
        ("Taken for", lambda one: text(one, "said") or "?"),
        (Column("Images"), lambda one: f"{number(one, 'count') or 0:.0f} of {number(one, 'n') or 0:.0f}"),
        ("Such as", files),
    )


def _drawings(found: Found) -> list[Block]:
    entries = [one for one in sequence(found.body, "files") if (text(one, "file") or "").endswith(".png")]
    drawn = {
        str(one["file"]): recorded_image(found.path.parent, one, text(one, "shows") or "", _DRAWING_BYTES)
        for one in entries
    }
    shown = [el("li", image) for image in drawn.values() if image is not None]
    blocks: list[Block] = []
    if shown:
        blocks.append(Figure("confusions and calibration", el("ul", *shown, class_="drawings")))
    if hidden := [name for name, image in drawn.items() if image is None]:
        blocks.append(
            Text.of(f"Not shown, as it is too large or not the one recorded: {', '.join(hidden)}.", kind="note")
        )
    return blocks

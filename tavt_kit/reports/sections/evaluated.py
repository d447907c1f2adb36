"""What ``eval`` counted: accuracies beside each other, the classes found least, confusions, the calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Section, Table, Text
from tavt_kit.reports.gather import Found, Records
from tavt_kit.reports.markup import el
from tavt_kit.reports.numbers import DASH, n_text, percent_text
from tavt_kit.reports.pictures import recorded_picture
from tavt_kit.reports.views import AccuracyView, mapping, number, sequence, text

__all__ = ["evaluated_section"]

_LISTED, _BYTES = 10, 250_000


def evaluated_section(records: Records) -> Section | None:
    """Every ``eval.json``, and of the first the classes and pictures; None where there is none."""
    found = records.all("eval")
    if not found:
        return None
    first = found[0].body
    blocks: list[Block] = [_figures(found), *_drawings(found[0])]
    if classes := _classes(first):
        blocks.append(classes)
    if confusions := _confusions(first):
        blocks.append(confusions)
    if heads := _heads(first):
        blocks.append(heads)
    return Section("evaluated", "What it has right", tuple(blocks))


def _figures(found: Sequence[Found]) -> Table:
    columns = (
        Column("Evaluated", numeric=False),
        Column("Images", hint="split"),
        Column("Top-1", hint="95 %"),
        Column("Top-5", hint="95 %"),
        Column("Macro F1", hint="95 %"),
        Column("Calibration error", hint="15 bins"),
        Column("Accepted", hint="of a wished precision"),
    )
    return Table(columns, tuple(_row(one.body) for one in found), "Accuracies with their 95 % intervals.")


def _row(record: Mapping[str, Any]) -> tuple[Cell, ...]:
    top1 = mapping(record, "top1")
    n = number(top1, "n")
    return (
        Cell(text(record, "thing") or "?", text(record, "schedule") or "", code=True),
        Cell(DASH if n is None else f"{n:.0f}", text(top1, "split") or ""),
        *(_accuracy(mapping(record, name)) for name in ("top1", "top5", "macro_f1")),
        Cell(percent_text(number(record, "calibration", "error"))),
        _accepted(mapping(record, "reject")),
    )


def _accuracy(record: Mapping[str, Any]) -> Cell:
    accuracy = AccuracyView.of(record, "value")
    return Cell(DASH) if accuracy is None else Cell(str(accuracy), accuracy.interval)


def _accepted(reject: Mapping[str, Any]) -> Cell:
    wanted, threshold = number(reject, "wanted"), number(reject, "threshold")
    coverage, reached = number(reject, "coverage", "value"), number(reject, "precision", "value")
    if wanted is None or threshold is None or coverage is None:
        return Cell(DASH)
    small = f"{percent_text(wanted, 0)} wished, {percent_text(reached)} reached from {percent_text(threshold)} on"
    return Cell(percent_text(coverage), small)


def _classes(record: Mapping[str, Any]) -> Table | None:
    """The classes with the least recall."""
    recall, precision = mapping(record, "recall"), mapping(record, "precision")
    known = {str(name): value for name in recall if (value := number(recall, name, "value")) is not None}
    names = sorted(known, key=lambda name: known[name])[:_LISTED]
    columns = (Column("Class", numeric=False), Column("Recall", hint="95 %"), Column("Precision", hint="95 %"),
               Column("F1"))  # fmt: skip
    rows = tuple(
        (
            Cell(name, n_text(n) if (n := number(recall, name, "n")) is not None else ""),
            _accuracy(mapping(recall, name)),
            _accuracy(mapping(precision, name)),
            Cell(percent_text(number(record, "f1", name))),
        )
        for name in names
    )
    few = (
        f"The {len(names)} classes of {len(known)} that are found least." if len(known) > len(names) else "Every class."
    )
    return Table(columns, rows, few) if rows else None


def _confusions(record: Mapping[str, Any]) -> Table | None:
    columns = (Column("Class", numeric=False), Column("Taken for", numeric=False), Column("Images"),
               Column("Such as", numeric=False))  # fmt: skip
    rows = tuple(
        (
            Cell(text(one, "truth") or "?"),
            Cell(text(one, "said") or "?"),
            Cell(f"{number(one, 'count') or 0:.0f} of {number(one, 'n') or 0:.0f}"),
            Cell(", ".join(file for each in sequence(one, "examples") if (file := text(each, "file"))), code=True),
        )
        for one in sequence(record, "confusions")
        if isinstance(one, Mapping)
    )
    return Table(columns, rows, "The pairs that are taken for one another most often.") if rows else None


def _heads(record: Mapping[str, Any]) -> Table | None:
    """PIM's heads."""
    heads = mapping(record, "heads")
    named = [("heads", ""), ("fused", "the surest heads"), ("fused_official", "the least sure, as officially")]
    rows = tuple(
        (Cell(name, small), *(_accuracy(mapping(heads, kind, name, top)) for top in ("top1", "top3")))
        for kind, small in named
        for name in mapping(heads, kind)
    )
    columns = (Column("Head", numeric=False), Column("Top-1", hint="95 %"), Column("Top-3", hint="95 %"))
    caption = "PIM's heads, and sums of the probabilities of so many of them."
    return Table(columns, rows, caption, folded=True) if rows else None


def _drawings(found: Found) -> list[Block]:
    entries = [one for one in sequence(found.body, "files") if (text(one, "file") or "").endswith(".png")]
    drawn = [
        (entry, recorded_picture(found.path.parent, entry, text(entry, "shows") or "", _BYTES)) for entry in entries
    ]
    shown = [el("li", picture) for _, picture in drawn if picture is not None]
    blocks: list[Block] = []
    if shown:
        blocks.append(Figure("confusions and calibration", el("ul", *shown, class_="drawings"), "", scrolls=False))
    if hidden := [str(entry["file"]) for entry, picture in drawn if picture is None]:
        blocks.append(
            Text.of(f"Not shown, as it is too large or not the one recorded: {', '.join(hidden)}.", kind="note")
        )
    return blocks

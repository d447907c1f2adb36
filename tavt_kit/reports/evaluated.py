"""What ``eval`` counted and what ``explain`` drew, with the images of a run that may be embedded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tavt_kit.reports.blocks import Block, Cell, Code, Column, Figure, Inline, Section, Table, Text, word_columns
from tavt_kit.reports.candidates import AccuracyView, accuracy_cell
from tavt_kit.reports.markup import el
from tavt_kit.reports.records import Found, Records, mapping, number, sequence, text
from tavt_kit.reports.words import DASH, n_text, percent_text, plural

__all__ = ["data_uri", "evaluated_section", "explained_section", "recorded_picture"]


_LISTED, _DRAWING_BYTES = 10, 250_000


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
        *word_columns("Evaluated"),
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
    return accuracy_cell(accuracy)


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
    columns = (*word_columns("Class"), Column("Recall", hint="95 %"), Column("Precision", hint="95 %"),
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
    columns = (*word_columns("Class", "Taken for"), Column("Images"),
               *word_columns("Such as"))  # fmt: skip
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
    columns = (*word_columns("Head"), Column("Top-1", hint="95 %"), Column("Top-3", hint="95 %"))
    caption = "PIM's heads, and sums of the probabilities of so many of them."
    return Table(columns, rows, caption, folded=True) if rows else None


def _drawings(found: Found) -> list[Block]:
    entries = [one for one in sequence(found.body, "files") if (text(one, "file") or "").endswith(".png")]
    drawn = [
        (entry, recorded_picture(found.path.parent, entry, text(entry, "shows") or "", _DRAWING_BYTES))
        for entry in entries
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


_EXPLAINED, _EXPLAINED_BYTES = 6, 1_000_000
"""Pictures and bytes of them that are shown at most: a report must stay small enough to be mailed."""


def explained_section(records: Records) -> Section | None:
    """The pictures of every ``explained.json``; None where there is none, since no run needs one."""
    blocks: list[Block] = []
    left = _EXPLAINED_BYTES
    for found in records.all("explained"):
        entries = [entry for entry in sequence(found.body, "images") if isinstance(entry, Mapping)]
        shown = list(_shown(found, entries, left))
        left -= sum(size for _, size in shown)
        blocks.append(_explained_sentence(found, len(entries), len(shown)))
        if shown:
            blocks.append(Figure("what the model looks at", el("ul", *(item for item, _ in shown), class_="drawings"),
                                 _caption(entries), scrolls=False))  # fmt: skip
    return Section("explained", "What the model looks at", tuple(blocks)) if blocks else None


def _shown(found: Found, entries: list[Mapping[str, Any]], left: int) -> Iterator[tuple[Markup, int]]:
    """Pictures with their bytes, as many as there is room for."""
    for entry in entries[:_EXPLAINED]:
        who = _explained_name(entry)
        shows = [title for title in sequence(entry, "shows") if isinstance(title, str)]
        picture = recorded_picture(found.path.parent, entry, f"{who}: {', '.join(shows)}", left)
        if picture is None:
            continue
        size = (found.path.parent / str(entry["file"])).stat().st_size
        left -= size
        yield el("li", el("p", who), picture), size


def _explained_name(entry: Mapping[str, Any]) -> str:
    name = (text(entry, "image") or "?").rpartition("/")[2]
    said, sure = text(entry, "prediction"), number(entry, "probability")
    return f"{name}: {said} ({percent_text(sure, 0)})" if said is not None and sure is not None else name


def _explained_sentence(found: Found, count: int, shown: int) -> Text:
    schedule = text(found.body, "schedule")
    under: tuple[Inline, ...] = (" under ", Code(schedule)) if schedule else ()
    rest = f", of which {shown} are shown" if shown < count else ""
    where = found.path.parent.name
    return Text.of(f"{plural(count, 'picture')}{rest}, by ", Code(text(found.body, "run") or "?"), *under,
                   f"; all of them in {where}/.")  # fmt: skip


def _caption(entries: list[Mapping[str, Any]]) -> str:
    shows = {title for entry in entries for title in sequence(entry, "shows") if isinstance(title, str)}
    meanings = {
        "attention rollout": "Attention rollout shows where information came from, not what decided, and is the same "
        "for every class.",
        "layer": "What a layer dropped is dark.",
        "probability": "A class's map is its probability at every place, scaled to its largest value.",
        "part": "A part's map is how much each place belongs to it.",
        "fused": "Framed patches are fused from that layer.",
        "the patch": "Framed are the patches that the heads select.",
    }
    return " ".join(words for start, words in meanings.items() if any(title.startswith(start) for title in shows))


_BYTES = 100_000
"""A thumbnail has a few kilobytes; with the dozens that a report shows it must stay small enough to be mailed."""
_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


def data_uri(folder: Path, name: str | None, most: int = _BYTES, sha256: str | None = None) -> str | None:
    """A picture as a data URI; None where there is none, or it may not be shown.

    Args:
        folder: It must lie below it.
        name: Of its file, from there.
        most: Bytes it may have.
        sha256: What it must be, where that was recorded.
    """
    if name is None:
        return None
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > most:
        return None
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        return None
    kind = _MAGIC.get(data[:3])
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if kind else None


def recorded_picture(folder: Path, entry: Any, alt: str, most: int) -> Markup | None:
    """The picture that ``entry`` names by ``file`` and ``sha256``, as an ``img``; None where it cannot be shown.

    Args:
        folder: Of the record; the picture must lie in it.
        entry: Of the record.
        alt: What it shows, for those who cannot see it.
        most: Bytes it may have.
    """
    recorded = text(entry, "sha256")
    source = data_uri(folder, text(entry, "file"), most, recorded) if recorded is not None else None
    return el("img", src=source, alt=alt, class_="drawn") if source else None

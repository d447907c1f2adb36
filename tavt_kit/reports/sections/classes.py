"""What each class lost: dense model against exported file, class by class, with the pictures that became wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.charts import change_bar
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.markup import el
from tavt_kit.reports.numbers import percent_text, points_text
from tavt_kit.reports.pictures import data_uri
from tavt_kit.reports.views import mapping, number, sequence, text
from tavt_kit.reports.words import plural

__all__ = ["classes_section"]

_ANCHOR, _TITLE = "classes", "What each class lost"
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
    return Section(_ANCHOR, _TITLE, tuple(blocks))


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
        Column("Class", numeric=False),
        Column("Images"),
        Column("", numeric=False),
        Column("Dense"),
        Column("File"),
        Column("Change", hint="points"),
    )
    return Table(columns, tuple(_row(one) for one in rows), caption, folded=folded)


def _row(one: Mapping[str, Any]) -> tuple[Cell, ...]:
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
    columns = (Column("Class", numeric=False), Column("taken for", numeric=False), Column("Dense"), Column("File"))
    rows = [
        (
            Cell(text(one, "truth") or ""),
            Cell(text(one, "said") or ""),
            Cell(f"{number(one, 'dense') or 0:.0f}"),
            Cell(f"{number(one, 'artifact') or 0:.0f}"),
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

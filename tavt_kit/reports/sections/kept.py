"""What each layer keeps of a few pictures: dropped patches darkened, merged ones outlined, layer after layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports.blocks import Block, Code, Figure, Missing, Section, Text
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.markup import el
from tavt_kit.reports.numbers import percent_text
from tavt_kit.reports.pictures import data_uri
from tavt_kit.reports.views import mapping, number, sequence, text, whole

__all__ = ["kept_section"]

_ANCHOR, _TITLE = "kept", "What each layer keeps"
_MOST = 12
"""Pictures shown at most: a report must stay small enough to be mailed."""


def kept_section(records: Records) -> Section | Missing:
    """The pictures of ``kept.json`` with their patches."""
    found = records.all("kept")
    if not found:
        return Missing("What each layer keeps of a few pictures", "fgvc-kit search MODEL")
    record, folder = found[0].body, found[0].path.parent
    grid = whole(record, "grid", 0), whole(record, "grid", 1)
    if grid[0] is None or grid[1] is None or min(grid[0], grid[1]) < 1:
        return Section(_ANCHOR, _TITLE, (Text.of(f"{found[0].path.name} has no patch grid.", kind="warning"),))
    rows, columns = grid[0], grid[1]
    layers = [layer for layer in sequence(record, "layers") if isinstance(layer, int)]
    entries = [entry for entry in sequence(record, "images") if isinstance(entry, Mapping)][:_MOST]
    items = [
        item for index, entry in enumerate(entries) if (item := _item(index, entry, layers, rows, columns, folder))
    ]
    blocks: list[Block] = [Text.of(_explanation(record, layers, rows * columns)), *_other_schedule(records, record)]
    if items:
        strips = el("ul", *items, class_=_width([item.count(" data-layers=") for item in items]))
        blocks.append(Figure("patches kept", el("div", _slider(layers), strips), "", scrolls=False))
    blocks += _rights(record)
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def _explanation(record: Mapping[str, Any], layers: Sequence[int], patches: int) -> str:
    """The counts in words, so that Markdown says what the pictures show."""
    split = text(record, "split")
    counts = [count for count in sequence(record, "schedule") if isinstance(count, int)]
    prefix = whole(record, "prefix") or 0
    kept = [(layer, counts[layer] - prefix) for layer in layers if layer < len(counts)]
    runs = [(count, [layer for layer, _ in run]) for count, run in groupby(kept, key=lambda pair: pair[1])]
    steps = ", ".join(f"{count} after {_layers(run)}" for count, run in runs)
    where = f" from the {split} split" if split else ""
    how = "dropped patches darkened"
    if text(record, "reduction") == "merge":
        how = "the patches of one token in one outline, the darker the more they are"
    return f"Pictures{where} as the model sees them, {how}. Of {patches} patches stay {steps}."


def _other_schedule(records: Records, record: Mapping[str, Any]) -> list[Block]:
    """A word where the report has chosen another schedule than the one that the pictures were made with."""
    front = records.first("front")
    pick = FrontView.of(front).pick if front else None
    counts = [count for count in sequence(record, "schedule") if isinstance(count, int)]
    if pick is None or not counts or list(pick.counts) == counts:
        return []
    return [
        Text.of("These pictures are of ", Code(counts_text(counts)), ", not of the schedule chosen here.", kind="note")
    ]


def _rights(record: Mapping[str, Any]) -> list[Block]:
    licence = mapping(record, "licence")
    name, terms = text(licence, "name"), text(licence, "licence")
    if name is None or terms is None:
        return []
    source = text(licence, "source")
    return [Text.of(f"Pictures: {name}, {terms}{f' ({source})' if source else ''}.", kind="note")]


def _slider(layers: Sequence[int]) -> Markup:
    """Moves through the layers; hidden until the script that it needs has run."""
    first, last = min(layers), max(layers)
    slider = el(
        "input",
        type="range",
        id="layer-slider",
        min=first,
        max=last,
        step=1,
        value=(first + last) // 2,
        aria_label="Layer whose kept patches are shown",
    )
    buttons = (
        el("button", "One layer", type="button", class_="small-button", aria_pressed="true"),
        el("button", "All layers", type="button", class_="small-button", aria_pressed="false"),
    )
    label = el("label", "Patches kept ", el("output", "after every layer"), for_="layer-slider")
    return el("div", label, slider, el("span", *buttons, class_="buttons"), class_="slide layer-slide", hidden=True)


@dataclass(frozen=True, slots=True)
class _Stage:
    """Layers after which the same patches stay."""

    layers: tuple[int, ...]
    kept: tuple[int, ...]
    owners: tuple[int, ...] = ()


def _item(
    index: int, entry: Mapping[str, Any], layers: Sequence[int], rows: int, columns: int, folder: Path
) -> Markup | None:
    kept, owners = _places(entry, "kept"), _places(entry, "owners")
    if len(owners) != len(kept) or any(len(row) != rows * columns for row in owners):
        owners = [()] * len(kept)
    source = data_uri(folder, text(entry, "thumbnail"))
    if not kept or len(kept) != len(layers):
        return None
    grouped = groupby(zip(layers, kept, owners, strict=True), key=lambda found: found[1:])
    stages = [_Stage(tuple(layer for layer, *_ in run), *found) for found, run in grouped]
    if stages and len(stages[0].kept) < rows * columns:
        stages.insert(0, _Stage((), tuple(range(rows * columns))))  # what there was before anything was dropped
    name = f"picture-{index}"
    pictures = [_stage(stage, name if source else None, rows, columns) for stage in stages]
    image = (
        el("image", id=name, href=source, width=columns, height=rows, preserveAspectRatio="none") if source else None
    )
    store = el("svg", el("defs", image), class_="store", aria_hidden="true") if image else None
    return el("li", el("p", *_who(entry), class_="who"), store, el("ul", *pictures, class_="strip"))


def _places(entry: Mapping[str, Any], name: str) -> list[tuple[int, ...]]:
    rows = [row for row in sequence(entry, name) if isinstance(row, list)]
    return [tuple(place for place in row if isinstance(place, int)) for row in rows]


def _who(entry: Mapping[str, Any]) -> list[Markup]:
    label, prediction = text(entry, "label") or "?", text(entry, "prediction")
    parts: list[Markup] = [el("strong", label)]
    if prediction is not None:
        sure = number(entry, "probability")
        how = f" ({percent_text(sure, 0)})" if sure is not None else ""
        right = "recognised" if prediction == label else f"taken for {prediction}"
        parts.append(f", {right}{how}")
    file = text(entry, "file")
    if file is not None:
        parts += [" ", el("code", file)]
    return parts


def _stage(stage: _Stage, name: str | None, rows: int, columns: int) -> Markup:
    stays = set(stage.kept)
    # Under merging no patch is gone: each is in some token.
    path = "" if stage.owners else "".join(_row_path(row, columns, stays) for row in range(rows))
    words = f"{len(stays)} of {rows * columns}"
    picture = el(
        "svg",
        el("use", href=f"#{name}") if name else None,
        el("path", d=path, class_="gone") if path else None,
        *_shares(stage.owners, rows, columns),
        viewBox=f"0 0 {columns} {rows}",
        role="img",
        aria_label=f"{words} patches: {_layers(stage.layers)}",
    )
    layers = " ".join(map(str, stage.layers))
    return el("li", picture, _layers(stage.layers), el("br"), words, data_layers=layers or "before")


def _shares(owners: Sequence[int], rows: int, columns: int) -> list[Markup]:
    """Shades over the patches of large tokens, and a line between neighbours that are in different ones."""
    if not owners:
        return []
    sizes = Counter(owners)
    found = []
    for name, least, most in (("some", 2, 3), ("many", 4, 7), ("most", 8, len(owners))):
        light = {place for place, owner in enumerate(owners) if not least <= sizes[owner] <= most}
        if path := "".join(_row_path(row, columns, light) for row in range(rows)):
            found.append(el("path", d=path, class_=f"merged {name}"))
    lines = []
    for place, owner in enumerate(owners):
        row, column = divmod(place, columns)
        if column + 1 < columns and owners[place + 1] != owner:
            lines.append(f"M{column + 1} {row}v1")
        if row + 1 < rows and owners[place + columns] != owner:
            lines.append(f"M{column} {row + 1}h1")
    return [*found, el("path", d="".join(lines), class_="border")] if lines else found


def _width(items: Sequence[int]) -> str:
    """How wide the widest strip is, as a class of the style sheet: narrow strips stand side by side."""
    widest = max(items, default=0)
    return "kept pairs" if widest <= 2 else "kept few" if widest <= 4 else "kept"


def _row_path(row: int, columns: int, stays: set[int]) -> str:
    """Rectangles over the dropped patches of one row, neighbours as one."""
    places = groupby(range(columns), key=lambda column: row * columns + column in stays)
    runs = [list(run) for is_kept, run in places if not is_kept]
    return "".join(f"M{run[0]} {row}h{len(run)}v1h-{len(run)}z" for run in runs)


def _layers(layers: Sequence[int]) -> str:
    if not layers:
        return "before layer 0"
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]}–{layers[-1]}"
    return "layers " + ", ".join(map(str, layers))

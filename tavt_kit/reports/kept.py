"""What each layer keeps of a few pictures: dropped patches darkened, merged ones outlined, layer after layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports.blocks import Block, Code, Figure, Missing, Section, Text
from tavt_kit.reports.candidates import FrontView
from tavt_kit.reports.evaluated import data_uri
from tavt_kit.reports.markup import fill
from tavt_kit.reports.records import Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import percent_text

__all__ = ["kept_section"]


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
        return Section(
            "kept", "What each layer keeps", (Text.of(f"{found[0].path.name} has no patch grid.", kind="warning"),)
        )
    rows, columns = grid[0], grid[1]
    layers = [layer for layer in sequence(record, "layers") if isinstance(layer, int)]
    entries = [entry for entry in sequence(record, "images") if isinstance(entry, Mapping)][:_MOST]
    images = [image for entry in entries if (image := _image(entry, layers, rows, columns, folder))]
    blocks: list[Block] = [Text.of(_explanation(record, layers, rows * columns)), *_other_schedule(records, record)]
    if images:
        widest = max(len(image["stages"]) for image in images)
        width = "pairs" if widest <= 2 else "few" if widest <= 4 else ""  # narrow strips stand side by side
        shown = {"images": images, "rows": rows, "columns": columns, "width": width}
        strips = fill("kept.html", first=min(layers), last=max(layers), **shown)
        blocks.append(Figure("patches kept", strips, "", scrolls=False))
    blocks += _rights(record)
    return Section("kept", "What each layer keeps", tuple(blocks))


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


def _image(
    entry: Mapping[str, Any], layers: Sequence[int], rows: int, columns: int, folder: Path
) -> dict[str, Any] | None:
    """What the template shows of one image; None where nothing fits the layers."""
    kept, owners = _places(entry, "kept"), _places(entry, "owners")
    if len(owners) != len(kept) or any(len(row) != rows * columns for row in owners):
        owners = [()] * len(kept)
    if not kept or len(kept) != len(layers):
        return None
    grouped = groupby(zip(layers, kept, owners, strict=True), key=lambda found: (found[1], found[2]))
    stages = [_stage([layer for layer, *_ in run], stays, own, rows, columns) for (stays, own), run in grouped]
    if len(kept[0]) < rows * columns:  # what there was before anything was dropped
        stages.insert(0, _stage([], tuple(range(rows * columns)), (), rows, columns))
    return {
        "label": text(entry, "label") or "?",
        "said": _said(entry),
        "file": text(entry, "file"),
        "source": data_uri(folder, text(entry, "thumbnail")),
        "stages": stages,
    }


def _places(entry: Mapping[str, Any], name: str) -> list[tuple[int, ...]]:
    rows = [row for row in sequence(entry, name) if isinstance(row, list)]
    return [tuple(place for place in row if isinstance(place, int)) for row in rows]


def _said(entry: Mapping[str, Any]) -> str:
    """What the model took the image for."""
    prediction, sure = text(entry, "prediction"), number(entry, "probability")
    if prediction is None:
        return ""
    right = "recognised" if prediction == text(entry, "label") else f"taken for {prediction}"
    return f", {right}{f' ({percent_text(sure, 0)})' if sure is not None else ''}"


def _stage(
    layers: Sequence[int], kept: Sequence[int], owners: Sequence[int], rows: int, columns: int
) -> dict[str, object]:
    """Layers after which the same patches stay, with the paths over what is gone or merged."""
    stays = set(kept)
    paths = _shares(owners, rows, columns)
    # Under merging no patch is gone: each is in some token.
    if not owners and (gone := "".join(_row_path(row, columns, stays) for row in range(rows))):
        paths = [("gone", gone)]
    return {"layers": layers, "name": _layers(layers), "words": f"{len(stays)} of {rows * columns}", "paths": paths}


def _shares(owners: Sequence[int], rows: int, columns: int) -> list[tuple[str, str]]:
    """Shades over the patches of large tokens, and a line between neighbours that are in different ones."""
    if not owners:
        return []
    sizes = Counter(owners)
    found = []
    for name, least, most in (("some", 2, 3), ("many", 4, 7), ("most", 8, len(owners))):
        light = {place for place, owner in enumerate(owners) if not least <= sizes[owner] <= most}
        if path := "".join(_row_path(row, columns, light) for row in range(rows)):
            found.append((f"merged {name}", path))
    lines = []
    for place, owner in enumerate(owners):
        row, column = divmod(place, columns)
        if column + 1 < columns and owners[place + 1] != owner:
            lines.append(f"M{column + 1} {row}v1")
        if row + 1 < rows and owners[place + columns] != owner:
            lines.append(f"M{column} {row + 1}h1")
    return [*found, ("border", "".join(lines))] if lines else found


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

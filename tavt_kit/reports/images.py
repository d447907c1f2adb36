"""The images of a run that may be embedded: what each layer keeps of a few, and what ``explain`` drew."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Code, Figure, Inline, Missing, Section, Text
from tavt_kit.reports.candidates import FrontView
from tavt_kit.reports.markup import el, fill
from tavt_kit.reports.records import Records, integers, number, objects, sequence, text, whole

_BYTES = 100_000
"""A thumbnail has a few kilobytes; with the dozens that a report shows it must stay small enough to be mailed."""
_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


def data_uri(folder: Path, name: str | None, most: int = _BYTES, sha256: str | None = None) -> str | None:
    """An image as a data URI; None where it lies not in the folder, is larger, or is not of this hash."""
    try:
        path = (folder / (name or "")).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > most:
            return None
    except (OSError, ValueError, RuntimeError):  # a name that no file has: too long, of no letters, in a circle
        return None
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        return None
    kind = _MAGIC.get(data[:3])
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if kind else None


_MOST = 12
"""Images of ``kept.json`` shown at most."""


def kept_section(records: Records) -> Section | Missing:
    """The images of ``kept.json``, layer after layer: dropped patches darkened, merged ones outlined."""
    files = records.all("kept")
    if not files:
        return Missing("What each layer keeps of a few images", "fgvc-kit search MODEL")
    record, folder = files[0].body, files[0].path.parent
    rows, columns = whole(record, "grid", 0) or 0, whole(record, "grid", 1) or 0
    if min(rows, columns) < 1:
        warning = Text.of(f"{files[0].path.name} has no patch grid.", kind="warning")
        return Section("kept", "What each layer keeps", (warning,))
    layers = integers(record, "layers")
    entries = objects(record, "images")[:_MOST]
    images = [image for entry in entries if (image := _image(entry, layers, rows, columns, folder))]
    blocks: list[Block] = [Text.of(_explanation(record, layers, rows * columns))]
    front, counts = records.first("front"), integers(record, "schedule")
    pick = FrontView(front).pick if front else None
    if pick is not None and counts and pick.counts != counts:
        other = Code(counts_text(counts))
        blocks.append(Text.of("These images are of ", other, ", not of the schedule chosen here.", kind="note"))
    if images:
        widest = max(len(image["stages"]) for image in images)
        width = "pairs" if widest <= 2 else "few" if widest <= 4 else ""  # narrow strips stand side by side
        strips = fill("kept.html", images=images, rows=rows, columns=columns, width=width)
        blocks.append(Figure("patches kept", strips))
    name, terms, source = (text(record, "licence", key) for key in ("name", "licence", "source"))
    if name is not None and terms is not None:
        blocks.append(Text.of(f"Images: {name}, {terms}{f' ({source})' if source else ''}.", kind="note"))
    return Section("kept", "What each layer keeps", tuple(blocks), words.plural(len(images), "image"))


def _explanation(record: Mapping[str, Any], layers: Sequence[int], patches: int) -> str:
    """The counts in words, so that a terminal says what the images show."""
    split, counts, prefix = text(record, "split"), integers(record, "schedule"), whole(record, "prefix") or 0
    runs = groupby((layer for layer in layers if layer < len(counts)), key=lambda layer: counts[layer])
    steps = ", ".join(f"{count - prefix} after {_layers(list(run))}" for count, run in runs)
    where = f" from the {split} split" if split else ""
    shown = "dropped patches darkened"
    if text(record, "reduction") == "merge":
        shown = "the patches of one token in one outline, the darker the more they are"
    return f"Images{where} as the model sees them, {shown}. Of {patches} patches stay {steps}."


def _image(
    entry: Mapping[str, Any], layers: Sequence[int], rows: int, columns: int, folder: Path
) -> dict[str, Any] | None:
    """What the template shows of one image; None where nothing fits the layers."""
    kept, owners = (
        [integers(row) for row in sequence(entry, name) if isinstance(row, list)] for name in ("kept", "owners")
    )
    if len(owners) != len(kept) or any(len(row) != rows * columns for row in owners):
        owners = [()] * len(kept)
    if not kept or len(kept) != len(layers):
        return None
    grouped = groupby(zip(layers, kept, owners, strict=True), key=lambda row: (row[1], row[2]))
    stages = [_stage([layer for layer, *_ in run], stays, own, rows, columns) for (stays, own), run in grouped]
    if len(kept[0]) < rows * columns:  # what there was before anything was dropped
        stages.insert(0, _stage([], range(rows * columns), (), rows, columns))
    prediction, sure, said = text(entry, "prediction"), number(entry, "probability"), ""
    if prediction is not None:
        right = "recognised" if prediction == text(entry, "label") else f"taken for {prediction}"
        said = f", {right}{f' ({words.percent_text(sure, 0)})' if sure is not None else ''}"
    return {
        "label": text(entry, "label") or "?",
        "said": said,
        "file": text(entry, "file"),
        "source": data_uri(folder, text(entry, "thumbnail")),
        "stages": stages,
    }


def _stage(
    layers: Sequence[int], kept: Sequence[int], owners: Sequence[int], rows: int, columns: int
) -> dict[str, object]:
    """Layers after which the same patches stay, with the paths over what is gone or merged."""
    stays = set(kept)
    paths = _merged(owners, rows, columns)
    # Under merging no patch is gone: each is in some token.
    if not owners and (gone := _covering(rows, columns, stays)):
        paths = [("gone", gone)]
    return {"layers": layers, "name": _layers(layers), "words": f"{len(stays)} of {rows * columns}", "paths": paths}


def _merged(owners: Sequence[int], rows: int, columns: int) -> list[tuple[str, str]]:
    """Shades over the patches of large tokens, and a line between neighbours that are in different ones."""
    sizes, shades, lines = Counter(owners), [], []
    for name, least, most in (("some", 2, 3), ("many", 4, 7), ("most", 8, len(owners))):
        light = {patch for patch, owner in enumerate(owners) if not least <= sizes[owner] <= most}
        if owners and (path := _covering(rows, columns, light)):
            shades.append((f"merged {name}", path))
    for patch, owner in enumerate(owners):
        row, column = divmod(patch, columns)
        if column + 1 < columns and owners[patch + 1] != owner:
            lines.append(f"M{column + 1} {row}v1")
        if row + 1 < rows and owners[patch + columns] != owner:
            lines.append(f"M{column} {row + 1}h1")
    return [*shades, ("border", "".join(lines))] if lines else shades


def _covering(rows: int, columns: int, stays: set[int]) -> str:
    """Rectangles over all patches but those that stay; neighbours in a row as one."""
    path = ""
    for row in range(rows):
        for is_kept, run in groupby(range(columns), key=lambda column: row * columns + column in stays):
            covered = list(run)
            path += "" if is_kept else f"M{covered[0]} {row}h{len(covered)}v1h-{len(covered)}z"
    return path


def _layers(layers: Sequence[int]) -> str:
    if not layers:
        return "before layer 0"
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]}–{layers[-1]}"
    return "layers " + ", ".join(map(str, layers))


_EXPLAINED, _EXPLAINED_BYTES = 6, 1_000_000
"""Images of ``explained.json`` and bytes of them that are shown at most."""


def explained_section(records: Records) -> Section | None:
    """The images of every ``explained.json``; None where there is none, since no run needs one."""
    blocks: list[Block] = []
    left, count = _EXPLAINED_BYTES, 0
    for file in records.all("explained"):
        entries, items = objects(file.body, "images"), list[Markup]()
        for entry in entries[:_EXPLAINED]:
            who = (text(entry, "image") or "?").rpartition("/")[2]
            said, sure = text(entry, "prediction"), number(entry, "probability")
            if said is not None and sure is not None:
                who += f": {said} ({words.percent_text(sure, 0)})"
            source = data_uri(file.path.parent, text(entry, "file"), left, text(entry, "sha256") or "unknown")
            if source is not None:
                left -= (file.path.parent / str(entry["file"])).stat().st_size
                image = el("img", src=source, alt=f"{who}: {', '.join(_titles(entry))}", class_="drawn")
                items.append(el("li", el("p", who), image))
        count += len(entries)
        schedule = text(file.body, "schedule")
        under: tuple[Inline, ...] = (" under ", Code(schedule)) if schedule else ()
        rest = f", of which {len(items)} are shown" if len(items) < len(entries) else ""
        lead, run = f"{words.plural(len(entries), 'image')}{rest}, by ", Code(text(file.body, "run") or "?")
        blocks.append(Text.of(lead, run, *under, f"; all of them in {file.path.parent.name}/."))
        if items:
            drawings = el("ul", *items, class_="drawings")
            blocks.append(Figure("what the model looks at", drawings, _caption(entries)))
    gist = words.plural(count, "image")
    return Section("explained", "What the model looks at", tuple(blocks), gist) if blocks else None


def _titles(entry: Mapping[str, Any]) -> list[str]:
    return [title for title in sequence(entry, "shows") if isinstance(title, str)]


def _caption(entries: Sequence[Mapping[str, Any]]) -> str:
    meanings = {
        "attention rollout": "Attention rollout shows where information came from, not what decided, and is the same "
        "for every class.",
        "layer": "What a layer dropped is dark.",
        "probability": "A class's map is its probability at every place, scaled to its largest value.",
        "part": "A part's map is how much each place belongs to it.",
    }
    shows = [title for entry in entries for title in _titles(entry)]
    return " ".join(said for start, said in meanings.items() if any(title.startswith(start) for title in shows))

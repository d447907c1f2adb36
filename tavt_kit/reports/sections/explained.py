"""What the model looks at: the pictures that ``explain`` drew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from tavt_kit.reports.blocks import Block, Code, Figure, Inline, Section, Text
from tavt_kit.reports.gather import Found, Records
from tavt_kit.reports.markup import el
from tavt_kit.reports.numbers import percent_text
from tavt_kit.reports.pictures import recorded_picture
from tavt_kit.reports.views import number, sequence, text
from tavt_kit.reports.words import plural

__all__ = ["explained_section"]

_MOST, _BYTES = 6, 1_000_000
"""Pictures and bytes of them that are shown at most: a report must stay small enough to be mailed."""


def explained_section(records: Records) -> Section | None:
    """The pictures of every ``explained.json``; None where there is none, since no run needs one."""
    blocks: list[Block] = []
    left = _BYTES
    for found in records.all("explained"):
        entries = [entry for entry in sequence(found.body, "images") if isinstance(entry, Mapping)]
        shown = list(_shown(found, entries, left))
        left -= sum(size for _, size in shown)
        blocks.append(_sentence(found, len(entries), len(shown)))
        if shown:
            blocks.append(Figure("what the model looks at", el("ul", *(item for item, _ in shown), class_="drawings"),
                                 _caption(entries), scrolls=False))  # fmt: skip
    return Section("explained", "What the model looks at", tuple(blocks)) if blocks else None


def _shown(found: Found, entries: list[Mapping[str, Any]], left: int) -> Iterator[tuple[Markup, int]]:
    """Pictures with their bytes, as many as there is room for."""
    for entry in entries[:_MOST]:
        who = _who(entry)
        shows = [title for title in sequence(entry, "shows") if isinstance(title, str)]
        picture = recorded_picture(found.path.parent, entry, f"{who}: {', '.join(shows)}", left)
        if picture is None:
            continue
        size = (found.path.parent / str(entry["file"])).stat().st_size
        left -= size
        yield el("li", el("p", who), picture), size


def _who(entry: Mapping[str, Any]) -> str:
    name = (text(entry, "image") or "?").rpartition("/")[2]
    said, sure = text(entry, "prediction"), number(entry, "probability")
    return f"{name}: {said} ({percent_text(sure, 0)})" if said is not None and sure is not None else name


def _sentence(found: Found, count: int, shown: int) -> Text:
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

"""What a report says, before it is HTML or Markdown: sections of text, facts, tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Column",
    "Download",
    "Facts",
    "Figure",
    "Headline",
    "Inline",
    "KeyFigure",
    "Missing",
    "Report",
    "Section",
    "Table",
    "Text",
]


@dataclass(frozen=True, slots=True)
class Code:
    """A command, file name or schedule within a text; a ``command`` can be copied by a button."""

    text: str
    command: bool = False


Inline = str | Code


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; a ``note`` is set small, a ``warning`` is set apart."""

    parts: tuple[Inline, ...]
    kind: Literal["plain", "note", "warning"] = "plain"

    @classmethod
    def of(cls, *parts: Inline, kind: Literal["plain", "note", "warning"] = "plain") -> Text:
        """From its parts."""
        return cls(parts, kind)


@dataclass(frozen=True, slots=True)
class Missing:
    """In place of a section whose record is not there: what it would show, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of a name and its value."""

    rows: tuple[tuple[str, Inline], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """Head of a table's column; numbers stand flush right."""

    title: str
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Args:
        text: The value.
        small: Said below it: an interval, a count.
        picture: Drawn before the text; HTML only.
        badge: A verdict, drawn as a badge.
        code: Whether the text is a schedule or a file name.
    """

    text: str
    small: str = ""
    picture: Markup | None = None
    badge: bool = False
    code: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns.

    Args:
        columns: Heads; the first column names the row.
        rows: As many cells as columns.
        caption: What the table says.
        strong: Rows that are set off.
        keys: Of each row, tying it to a mark of a chart.
        folded: Shown on demand, because a picture says it already.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    strong: frozenset[int] = frozenset()
    keys: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with its legend and caption; Markdown leaves it out, for its numbers are in a table or text.

    ``scrolls``: a chart that shrank with a telephone could not be read, so it keeps its size and scrolls.
    """

    name: str
    picture: Markup
    caption: str
    legend: Markup | None = None
    scrolls: bool = True


Block = Text | Facts | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with its blocks."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number that deserves large type."""

    value: str
    label: str
    small: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict: one word, one sentence, what must be said beside it, a few numbers.

    ``beaten``: a baseline does better, so that the verdict must not look like praise.
    """

    verdict: str
    sentence: Text
    more: tuple[Text, ...] = ()
    figures: tuple[KeyFigure, ...] = ()
    beaten: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Everything, from top to bottom."""

    title: str
    subtitle: str
    headline: Headline
    sections: tuple[Section, ...]
    footer: str


@dataclass(frozen=True, slots=True)
class Download:
    """A file that the page carries along, to be saved by a click.

    Args:
        name: Of the file.
        kind: ``text/csv`` or ``application/json``.
        content: Its text.
    """

    name: str
    kind: str
    content: str

"""What a report says: sections of text, facts, tables and images; written as one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from markupsafe import Markup

from tavt_kit.reports.markup import asset, fill
from tavt_kit.reports.words import DASH

T = TypeVar("T")
Kind = Literal["plain", "note", "warning"]


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
    kind: Kind = "plain"

    @classmethod
    def of(cls, *parts: Inline, kind: Kind = "plain") -> Text:
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
    """One cell of a table, ``small`` below its text; the image before it is for the page only."""

    text: str
    small: str = ""
    image: Markup | None = None
    badge: bool = False
    code: bool = False


Rule = tuple[Column | str, Callable[[T], Cell | str]]
"""Head of a table's column (text of one that holds words), and what its cell is for each row."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns, of which the first names the row; those at the ``strong`` indices are set off.

    The keys tie each row to a mark of a chart. A ``folded`` table is shown on demand, as an image says it already.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    strong: frozenset[int] = frozenset()
    keys: tuple[str, ...] = ()
    folded: bool = False

    @classmethod
    def of(
        cls, rows: Iterable[T], caption: str, *rules: Rule[T], strong: Iterable[int] = (), keys: Iterable[str] = (),
        folded: bool = False,
    ) -> Table:  # fmt: skip
        """A row for each value, by the rules of the columns; a column that says nothing in any row is left out."""
        values, heads, columns = list(rows), list[Column](), list[list[Cell]]()
        for head, make in rules:
            cells = [made if isinstance(made, Cell) else Cell(made) for made in map(make, values)]
            if not heads or any(cell.text not in ("", DASH) or cell.small or cell.image is not None for cell in cells):
                heads.append(Column(head, numeric=False) if isinstance(head, str) else head)
                columns.append(cells)
        lines = tuple(zip(*columns, strict=True))
        return cls(tuple(heads), lines, caption, frozenset(strong), tuple(keys), folded)


@dataclass(frozen=True, slots=True)
class Figure:
    """An image with its legend and caption; its numbers are in a table or text too."""

    name: str
    image: Markup
    caption: str = ""
    legend: Markup | None = None


Block = Text | Facts | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what can be read of it without opening it (``gist``), and its blocks."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]
    gist: str = ""


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number that deserves large type."""

    value: str
    label: str
    small: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the reader came for: what to do (``lead``), why (``sentence``), and what must be said beside it (``more``).

    The verdict is one word, empty where no budget was asked for; the command is the next step, in words and to type.
    Where a baseline does better (``beaten``) the verdict must not look like praise. ``opens`` is the section unfolded.
    """

    verdict: str
    lead: str
    sentence: Text
    more: tuple[Text, ...] = ()
    figures: tuple[KeyFigure, ...] = ()
    command: tuple[str, str] | None = None
    beaten: bool = False
    opens: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything, from top to bottom: the answer, one chart, and sections under the four headings of ``groups``."""

    title: str
    subtitle: str
    answer: Answer
    chart: Figure | None
    groups: tuple[tuple[str, tuple[Section, ...]], ...]
    footer: str


_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b6e75"/>'
    '<path d="M3 12V4m4 8V6m4 6V9" stroke="#fff" stroke-width="2"/></svg>'
)


def html_page(report: Report, downloads: Sequence[Mapping[str, str]] = ()) -> str:
    """The whole page, as text, with files to be saved by a click, each with ``name``, ``kind`` and ``content``.

    A content policy in its head forbids every request, and any style or script but the two of ours (by their hashes),
    so that even a mistake in escaping could run nothing.
    """
    style, script = asset("report.css"), asset("report.js")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    policy = Markup(  # of our own making; its quotes stay as they are
        "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; "
        "form-action 'none'"
    ).format(*hashes)
    icon = "data:image/svg+xml;base64," + base64.b64encode(_ICON.encode()).decode()
    ours = {"policy": policy, "icon": icon, "style": Markup(style), "script": Markup(script)}
    return fill("report.html", report=report, downloads=downloads, **ours).lstrip()

"""A report as one HTML file: no request leaves it, and no text of a record can become markup."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

from markupsafe import Markup

from tavt_kit.reports.blocks import (
    Block,
    Cell,
    Code,
    Column,
    Download,
    Facts,
    Figure,
    Headline,
    Inline,
    Report,
    Section,
    Table,
    Text,
)
from tavt_kit.reports.markup import el

__all__ = ["html_page"]

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b6e75"/>'
    '<path d="M3 12V4m4 8V6m4 6V9" stroke="#fff" stroke-width="2"/></svg>'
)


def html_page(report: Report, downloads: Sequence[Download] = ()) -> str:
    """The whole page as text, UTF-8.

    Args:
        report: What it says.
        downloads: Files that it carries along.

    A content policy in its head forbids every request, and any style or script but the two of ours (by their hashes),
    so that even a mistake in escaping could run nothing.
    """
    style, script = _asset("report.css"), _asset("report.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    icon = "data:image/svg+xml;base64," + base64.b64encode(_ICON.encode()).decode()
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{report.title}: latency-budget report"),
        el("link", rel="icon", href=icon),
        el("style", Markup(style)),
    )
    body = el(
        "body",
        el(
            "header",
            el("p", "fgvc-kit", el("span", "latency-budget report"), class_="brand"),
            el("h1", report.title),
            el("p", report.subtitle, class_="subtitle"),
            _contents(report.sections),
            _downloads(downloads),
        ),
        el("main", _headline(report.headline), *(_section(section) for section in report.sections)),
        el("footer", el("p", report.footer)),
        el("script", Markup(script)),
    )
    return "<!doctype html>\n" + el("html", head, body, lang="en")


def _asset(name: str) -> str:
    return files("tavt_kit.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _contents(sections: Iterable[Section]) -> Markup:
    links = [el("li", el("a", section.title, href=f"#{section.anchor}")) for section in sections]
    return el("nav", el("ul", *links), aria_label="Contents")


def _downloads(downloads: Sequence[Download]) -> Markup | None:
    """Links to the files within the page itself: they need neither a script nor a network."""
    if not downloads:
        return None
    links = [
        el(
            "a",
            download.name,
            href=f"data:{download.kind};base64,{base64.b64encode(download.content.encode()).decode()}",
            download=download.name,
        )
        for download in downloads
    ]
    return el("p", "Save the numbers:", *links, class_="downloads")


def _headline(headline: Headline) -> Markup:
    figures = [
        el(
            "div",
            el("dt", figure.label),
            el("dd", figure.value, class_="value"),
            el("dd", figure.small, class_="small"),
        )
        for figure in headline.figures
    ]
    return el(
        "section",
        _badge(headline.verdict) if headline.verdict else None,
        el("p", *map(_inline, headline.sentence.parts), class_="sentence"),
        el("dl", *figures, class_="figures") if figures else None,
        el("div", *(_block(text) for text in headline.more), class_="more") if headline.more else None,
        class_=f"headline {headline.verdict.lower() or 'none'}",
        id="verdict",
        aria_label="Verdict",
    )


def _section(section: Section) -> Markup:
    return el("section", el("h2", section.title), *map(_block, section.blocks), id=section.anchor)


def _block(block: Block) -> Markup:
    if isinstance(block, Text):
        return el("p", *map(_inline, block.parts), class_=block.kind)
    if isinstance(block, Facts):
        return _facts(block)
    if isinstance(block, Table):
        return _table(block)
    return _figure(block)


def _inline(part: Inline) -> Markup:
    return _code(part.text, command=part.command) if isinstance(part, Code) else part


def _code(text: str, *, command: bool = False) -> Markup:
    """Code that may break after commas and slashes only: a schedule, a path."""
    pieces = re.split(r"(?<=[,/])", text)
    return el("code", *(part for piece in pieces for part in (piece, el("wbr"))), class_="command" if command else None)


def _facts(facts: Facts) -> Markup:
    rows = [el("div", el("dt", name), el("dd", _inline(value))) for name, value in facts.rows]
    return el("dl", *rows, class_="facts")


def _figure(figure: Figure) -> Markup:
    picture = figure.picture
    if figure.scrolls:  # what scrolls must be reachable by key
        picture = el("div", picture, class_="scroll", tabindex=0, role="region", aria_label=figure.name)
    return el("figure", figure.legend, picture, el("figcaption", figure.caption) if figure.caption else None)


def _table(table: Table) -> Markup:
    head = el("tr", *(_head_cell(column) for column in table.columns))
    rows = [_row(index, row, table) for index, row in enumerate(table.rows)]
    grid = el("table", el("thead", head), el("tbody", *rows), aria_label=table.caption)
    box = el("div", grid, class_="scroll", tabindex=0, role="region", aria_label=table.caption)
    # The caption stands outside the box, or it would scroll away with it.
    return (
        el("details", el("summary", table.caption), box)
        if table.folded
        else el("div", el("p", table.caption, class_="caption"), box)
    )


def _head_cell(column: Column) -> Markup:
    hint = el("small", column.hint) if column.hint else None
    return el("th", column.title, hint, scope="col", class_="number" if column.numeric else None)


def _row(index: int, row: tuple[Cell, ...], table: Table) -> Markup:
    cells = [
        _cell(cell, column, index=place) for place, (cell, column) in enumerate(zip(row, table.columns, strict=True))
    ]
    key = table.keys[index] if index < len(table.keys) else None
    return el("tr", *cells, class_="strong" if index in table.strong else None, data_key=key or None)


def _cell(cell: Cell, column: Column, *, index: int) -> Markup:
    if cell.badge:
        text: Markup = _badge(cell.text)
    else:
        text = _code(cell.text) if cell.code and cell.text else cell.text
    small = el("small", cell.small) if cell.small else None
    tag = "th" if index == 0 else "td"
    return el(
        tag,
        cell.picture,
        text,
        small,
        scope="row" if tag == "th" else None,
        class_="number" if column.numeric else None,
    )


def _badge(verdict: str) -> Markup:
    return el("span", verdict, class_=f"badge {verdict.lower()}" if verdict.isalpha() else "badge")

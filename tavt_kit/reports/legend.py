"""What the shapes of a chart mean."""

from __future__ import annotations

from collections.abc import Iterable

from tavt_kit.reports.markup import Element, el

__all__ = ["legend"]


def legend(entries: Iterable[tuple[Element, str, str]]) -> Element:
    """A list of shapes with words.

    Args:
        entries: The shape, drawn around (10, 10) in a square of 20; its class; its meaning.
    """
    items = (
        el("li", el("svg", el("g", shape, class_=name), viewBox="0 0 20 20", class_="key", aria_hidden="true"), words)
        for shape, name, words in entries
    )
    return el("ul", *items, class_="legend")

"""A share before and after on a line from 0 to 100 %, small enough for a cell of a table."""

from __future__ import annotations

from tavt_kit.reports.markup import Element, el

__all__ = ["change_bar"]

_WIDTH, _HEIGHT = 150.0, 16.0


def change_bar(before: float, after: float, words: str) -> Element:
    """Hollow mark before, full mark after, joined.

    Args:
        before: Of 1.
        after: Of 1.
        words: What a screen reader says.
    """
    left, right, middle = 6.0, _WIDTH - 6.0, _HEIGHT / 2
    first, last = (left + (right - left) * min(1.0, max(0.0, share)) for share in (before, after))
    kind = "fell" if after < before else "rose"
    return el(
        "svg",
        el("line", x1=left, x2=right, y1=middle, y2=middle, class_="grid"),
        el("line", x1=first, x2=last, y1=middle, y2=middle, class_=f"moved {kind}"),
        el("circle", cx=first, cy=middle, r=4, class_="dot-a"),
        el("circle", cx=last, cy=middle, r=4.5, class_=f"now {kind}"),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        width=_WIDTH,
        height=_HEIGHT,
        class_="change",
        role="img",
        aria_label=words,
    )

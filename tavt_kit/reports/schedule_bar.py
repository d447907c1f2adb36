"""A schedule as a row of small bars, one a layer: how high is how many tokens stay."""

from __future__ import annotations

from collections.abc import Sequence

from tavt_kit.reports.markup import Element, el

__all__ = ["schedule_bar"]

_HEIGHT = 22.0


def schedule_bar(counts: Sequence[int], tokens: int, text: str) -> Element:
    """The picture of a schedule.

    Args:
        counts: Tokens kept after each layer.
        tokens: Tokens of the dense model: the full height.
        text: What a screen reader says.
    """
    step, gap = (8.0, 2.0) if len(counts) <= 16 else (5.0, 1.0)
    bars = [el("rect", x=i * step, y=0, width=step - gap, height=_HEIGHT, class_="full") for i in range(len(counts))]
    for i, count in enumerate(counts):
        height = max(1.0, _HEIGHT * min(1.0, count / max(1, tokens)))
        bars.append(el("rect", x=i * step, y=_HEIGHT - height, width=step - gap, height=height, class_="kept"))
    width = len(counts) * step - gap
    size = {"viewBox": f"0 0 {width:g} {_HEIGHT:g}", "width": f"{width:g}", "height": f"{_HEIGHT:g}"}
    return el("svg", *bars, class_="schedule", role="img", aria_label=text, **size)

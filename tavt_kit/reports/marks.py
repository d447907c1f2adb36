"""The marks of a chart of models: what each stands for, its shape, and the legend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tavt_kit.reports.legend import legend
from tavt_kit.reports.markup import Element, el

__all__ = ["KINDS", "SHAPES", "Kind", "Mark", "front_legend"]

Kind = Literal["chosen", "front", "dense", "int8", "chosen-int8", "resolution", "layers", "taper", "stages", "other"]

KINDS: dict[Kind, str] = {
    "chosen": "chosen",
    "front": "on the front",
    "dense": "dense, f32",
    "int8": "dense, INT8",
    "chosen-int8": "chosen, INT8",
    "resolution": "lower resolution",
    "layers": "fewer layers",
    "taper": "uniform taper",
    "stages": "stage schedule",
    "other": "other baseline",
}
"""Kinds of marks, in the order of the legend."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of the chart.

    Args:
        kind: Decides shape and colour.
        label: Written beside it where there is room; empty for none.
        x: Cost: milliseconds or multiply-adds (in G).
        y: Accuracy in percent.
        x_bar: Spread of ``x``, or ``None``.
        y_bar: 95 % interval of ``y`` in percent, or ``None``.
        predicted_x: What the latency table had predicted; drawn hollow.
        measured: Whether ``x`` is known; else the mark itself is a prediction and drawn hollow.
        lines: The hover text, line by line.
        key: Ties it to the row of the table below.
        series: The letter of its search, where there are several: ``a``, ``b``, ...
    """

    kind: Kind
    label: str
    x: float
    y: float
    x_bar: tuple[float, float] | None = None
    y_bar: tuple[float, float] | None = None
    predicted_x: float | None = None
    measured: bool = True
    lines: tuple[str, ...] = ()
    key: str = ""
    series: str = ""


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float], Element]:
    def draw(x: float, y: float) -> Element:
        return el("path", d="M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "Z")

    return draw


def _circle(radius: float) -> Callable[[float, float], Element]:
    return lambda x, y: el("circle", cx=x, cy=y, r=radius)


SHAPES: dict[Kind, Callable[[float, float], Element]] = {
    "chosen": _circle(7),
    "front": _circle(5),
    "dense": _polygon((-5, -5), (5, -5), (5, 5), (-5, 5)),
    "int8": _polygon((0, -7), (7, 0), (0, 7), (-7, 0)),
    "chosen-int8": _polygon((0, -8), (8, 0), (0, 8), (-8, 0)),
    "resolution": _polygon((0, -7), (6.5, 5), (-6.5, 5)),
    "layers": _polygon((-7, -3), (7, -3), (7, 3), (-7, 3)),
    "taper": lambda x, y: el("path", d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", class_="cross"),
    "stages": _polygon((0, 7), (6.5, -5), (-6.5, -5)),
    "other": _polygon((0, -6), (6, -1.5), (3.6, 5.5), (-3.6, 5.5), (-6, -1.5)),
}
"""Draws each kind of mark around a point."""


def front_legend(marks: Iterable[Mark], cloud: bool = False) -> Element:
    """The shapes that occur, with their meaning; ``cloud``: whether there are points behind."""
    found = list(marks)
    kinds = [kind for kind in KINDS if any(mark.kind == kind for mark in found)]
    entries = [(SHAPES[kind](10.0, 10.0), f"mark {kind}", KINDS[kind]) for kind in kinds]
    if any(mark.predicted_x is not None or not mark.measured for mark in found):
        entries.append((el("circle", cx=10, cy=10, r=4.5), "predicted", "predicted from the layer table"))
    if any(mark.y_bar for mark in found):
        entries.append((el("path", d="M10 2V18M6 2H14M6 18H14"), "bars", "95 % interval"))
    if any(mark.x_bar for mark in found):
        entries.append((el("path", d="M2 10H18M2 6V14M18 6V14"), "bars", "p10 to p90"))
    if cloud:
        entries.append((el("path", d="M6 13h0M10 7h0M14 12h0"), "cloud", "other evaluated, latency predicted"))
    return legend(entries)

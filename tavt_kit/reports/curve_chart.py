"""Values over the steps of a run, or over seconds or layers: lines, the spread of the first one, points on a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tavt_kit.reports.axes import Scale, padded, round_ticks
from tavt_kit.reports.legend import legend
from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.numbers import significant

__all__ = ["Curve", "curve_chart", "curve_legend", "thinned"]

_WIDTH, _HEIGHT = 1040.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 22.0, 16.0, 46.0
_SLOTS = 24
"""Places that tell their values when they are pointed at."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line.

    Args:
        name: For the legend and the hover text.
        points: (step, value), by step.
        spread: (step, least, greatest) around it, or nothing.
        dots: Whether each point is marked.
        ring: The step of the point that is ringed.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    spread: tuple[tuple[float, float, float], ...] = ()
    dots: bool = False
    ring: float | None = None


def thinned(name: str, points: Sequence[tuple[float, float]], most: int = 60, *, spread: bool = False) -> Curve:
    """A curve of at most ``most`` points, each the mean of as many neighbours.

    Example:
        >>> thinned("loss", [(1, 4.0), (2, 2.0), (3, 1.0), (4, 1.0)], 2).points
        ((1.5, 3.0), (3.5, 1.0))
    """
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size else []
    means = [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]
    around = [
        (x, min(y for _, y in group), max(y for _, y in group)) for (x, _), group in zip(means, groups, strict=True)
    ]
    return Curve(name, tuple(means), tuple(around) if spread and size > 1 else ())


def curve_chart(curves: Sequence[Curve], last: float, y_title: str, title: str, *, x_title: str = "step") -> Element:
    """The curves over their steps.

    Args:
        curves: One to four, each with a point; the spread of the first is drawn.
        last: Where the axis of steps ends.
        y_title: With unit and split.
        title: What a screen reader says for the whole picture.
        x_title: What is counted along the axis.
    """
    values = [y for curve in curves for _, y in curve.points]
    values += [end for _, *ends in curves[0].spread for end in ends]
    floor = 0.0 if min(values) >= 0 else -float("inf")
    x_axis = Scale(0.0, max(1.0, last), _LEFT, _WIDTH - _RIGHT)
    y_axis = Scale(*padded(values, floor=floor), _HEIGHT - _BOTTOM, _TOP)
    parts = _frame(x_axis, y_axis, y_title, x_title) + _band(curves[0], x_axis, y_axis)
    for letter, curve in zip("abcd", curves, strict=False):
        parts += _line(curve, letter, x_axis, y_axis)
    parts += _hovers(curves, x_axis, x_title)
    return el("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="chart", role="img", aria_label=title)


def curve_legend(curves: Sequence[Curve]) -> Element:
    """The lines that occur, and what stands behind and around them."""
    line = el("path", d="M2 10H18")
    entries = [(line, f"curve curve-{letter}", curve.name) for letter, curve in zip("abcd", curves, strict=False)]
    if curves[0].spread:
        entries.append(
            (
                el("rect", x=2, y=4, width=16, height=12),
                "band",
                f"{curves[0].name}, least to greatest of neighbouring steps",
            )
        )
    if any(curve.ring is not None for curve in curves):
        entries.append((el("circle", cx=10, cy=10, r=6), "ring", "selected"))
    return legend(entries)


def _frame(x_axis: Scale, y_axis: Scale, y_title: str, x_title: str) -> list[Element]:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for tick in round_ticks(y_axis.low, y_axis.high, 5):
        y = y_axis.at(tick)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=_LEFT - 10, y=y + 4, class_="tick end"))
    for tick in round_ticks(x_axis.low, x_axis.high, 8):
        parts.append(el("text", f"{tick:g}", x=x_axis.at(tick), y=bottom + 18, class_="tick middle"))
    parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (_TOP + bottom) / 2
    parts.append(el("text", y_title, x=16, y=middle, transform=f"rotate(-90 16 {middle:g})", class_="title middle"))
    parts.append(el("text", x_title, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, class_="title middle"))
    return parts


def _band(curve: Curve, x_axis: Scale, y_axis: Scale) -> list[Element]:
    if not curve.spread:
        return []
    above = [(x_axis.at(x), y_axis.at(high)) for x, _, high in curve.spread]
    below = [(x_axis.at(x), y_axis.at(low)) for x, low, _ in reversed(curve.spread)]
    return [el("path", d=_path([*above, *below]) + "Z", class_="band")]


def _line(curve: Curve, letter: str, x_axis: Scale, y_axis: Scale) -> list[Element]:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in curve.points]
    parts = [el("path", d=_path(places), class_=f"curve curve-{letter}")] if len(places) > 1 else []
    if curve.dots or len(places) == 1:
        parts += [el("circle", cx=x, cy=y, r=3.5, class_="seen") for x, y in places]
    parts += [
        el("circle", cx=x, cy=y, r=7, class_="ring")
        for (step, _), (x, y) in zip(curve.points, places, strict=True)
        if step == curve.ring
    ]
    return parts


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _hovers(curves: Sequence[Curve], x_axis: Scale, x_title: str) -> list[Element]:
    """Unseen rectangles side by side, each telling the values nearest to its middle."""
    width = (x_axis.end - x_axis.start) / _SLOTS
    per_pixel = (x_axis.high - x_axis.low) / (x_axis.end - x_axis.start)
    parts = []
    for slot in range(_SLOTS):
        left = x_axis.start + slot * width
        step = x_axis.low + (left + width / 2 - x_axis.start) * per_pixel
        near = [min(curve.points, key=lambda point: abs(point[0] - step)) for curve in curves]
        lines = [f"about {x_title} {near[0][0]:.0f}"]
        lines += [f"{curve.name} {significant(y)}" for curve, (_, y) in zip(curves, near, strict=True)]
        area = el("rect", x=left, y=_TOP, width=width, height=_HEIGHT - _TOP - _BOTTOM, class_="target")
        parts.append(el("g", area, class_="point", tabindex=0, role="img", aria_label="; ".join(lines)))
    return parts

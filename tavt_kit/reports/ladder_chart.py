"""Before and after distillation, one step of the ladder beside the other: how far each schedule was lifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tavt_kit.reports.axes import Scale, padded, round_ticks
from tavt_kit.reports.legend import legend
from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.numbers import percent_text, points_text

__all__ = ["Rung", "ladder_chart", "ladder_legend"]

_WIDTH, _HEIGHT = 1040.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 22.0, 26.0, 34.0


@dataclass(frozen=True, slots=True)
class Rung:
    """One schedule: accuracies as fractions, each with its interval, or None where unknown."""

    name: str
    before: float | None
    before_bar: tuple[float, float] | None
    after: float | None
    after_bar: tuple[float, float] | None


def ladder_chart(rungs: Sequence[Rung], y_title: str, title: str) -> Element:
    """Two marks a rung, joined by an arrow's shaft, and the lift in points above.

    Args:
        rungs: From dense downwards; at least one with a value.
        y_title: With unit and split.
        title: What a screen reader says for the whole picture.
    """
    values = [value for rung in rungs for value in _values(rung)]
    low, high = padded([100 * value for value in values], floor=0.0)
    y_axis = Scale(low, min(100.0, high), _HEIGHT - _BOTTOM, _TOP)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(rungs)
    parts = _frame(y_axis, y_title)
    for index, rung in enumerate(rungs):
        parts += _rung(rung, _LEFT + slot * (index + 0.5), y_axis)
    return el("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="chart", role="img", aria_label=title)


def ladder_legend() -> Element:
    """The two marks."""
    dot = el("circle", cx=10, cy=10, r=5.5)
    return legend(((dot, "dot-a", "before distillation"), (dot, "dot-b", "after")))


def _values(rung: Rung) -> list[float]:
    ends = (*(rung.before_bar or ()), *(rung.after_bar or ()))
    return [value for value in (rung.before, rung.after, *ends) if value is not None]


def _frame(y_axis: Scale, y_title: str) -> list[Element]:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for tick in round_ticks(y_axis.low, y_axis.high, 5):
        y = y_axis.at(tick)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=_LEFT - 10, y=y + 4, class_="tick end"))
    parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    middle = (_TOP + bottom) / 2
    parts.append(el("text", y_title, x=16, y=middle, transform=f"rotate(-90 16 {middle:g})", class_="title middle"))
    return parts


def _rung(rung: Rung, x: float, y_axis: Scale) -> list[Element]:
    parts = [el("text", rung.name, x=x, y=_HEIGHT - _BOTTOM + 20, class_="tick middle")]
    left, right = x - 16, x + 16
    if rung.before is not None and rung.after is not None:
        ends = y_axis.at(100 * rung.before), y_axis.at(100 * rung.after)
        parts.append(el("line", x1=left, y1=ends[0], x2=right, y2=ends[1], class_="lift"))
        top = min(y_axis.at(100 * max(_values(rung))), *ends) - 8
        lift = rung.after - rung.before
        parts.append(el("text", points_text(lift), x=x, y=top, class_=f"{'fall' if lift < 0 else 'rise'} middle"))
    parts += _dot(left, rung.before, rung.before_bar, y_axis, "a") + _dot(
        right, rung.after, rung.after_bar, y_axis, "b"
    )
    words = [rung.name, f"before {percent_text(rung.before)}", f"after {percent_text(rung.after)}"]
    area = el("rect", x=x - 34, y=_TOP, width=68, height=_HEIGHT - _TOP - _BOTTOM, class_="target")
    parts.append(el("g", area, class_="point", tabindex=0, role="img", aria_label="; ".join(words)))
    return parts


def _dot(x: float, value: float | None, bar: tuple[float, float] | None, y_axis: Scale, letter: str) -> list[Element]:
    if value is None:
        return []
    parts = []
    if bar is not None:
        ends = y_axis.at(100 * bar[0]), y_axis.at(100 * bar[1])
        parts.append(el("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_=f"whisker-{letter}"))
    return [*parts, el("circle", cx=x, cy=y_axis.at(100 * value), r=5.5, class_=f"dot-{letter}")]

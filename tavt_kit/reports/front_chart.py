"""The front as a picture: cost to the right, accuracy upwards, with doubt, predictions, budget and baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tavt_kit.reports.axes import Scale, padded, round_ticks
from tavt_kit.reports.labels import Box, place_labels
from tavt_kit.reports.marks import SHAPES, Mark
from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.numbers import significant

__all__ = ["Frame", "front_chart"]

_WIDTH, _HEIGHT = 1040.0, 480.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 22.0, 20.0, 58.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What the axes mean: titles, and the lines a budget draws.

    Args:
        x_title: With its unit.
        y_title: With its unit and split.
        ceiling: The budget on ``x``, or ``None``.
        ceiling_text: Written on its line.
        floor: The least accuracy asked for, in percent, or ``None``.
        floor_text: Written on its line.
    """

    x_title: str
    y_title: str
    ceiling: float | None = None
    ceiling_text: str = ""
    floor: float | None = None
    floor_text: str = ""


def front_chart(marks: Sequence[Mark], frame: Frame, title: str, cloud: Iterable[tuple[float, float]] = ()) -> Element:
    """The chart as an ``svg`` element; colours come from the page's style sheet.

    Args:
        marks: At least one; those of kind ``chosen`` and ``front`` are joined to a staircase.
        frame: Axes and limits.
        title: What a screen reader says for the whole picture.
        cloud: Points drawn faintly behind; those beyond the axes, which follow the marks, are left out.
    """
    x_axis, y_axis = _scales(marks, frame)
    return el(
        "svg",
        *_grid(x_axis, y_axis, frame),
        *_limits(x_axis, y_axis, frame),
        _cloud(cloud, x_axis, y_axis),
        *(_staircase(marks, series, x_axis, y_axis) for series in sorted({mark.series for mark in marks})),
        *(_bars(mark, x_axis, y_axis) for mark in _painted(marks)),
        *(_mark(mark, x_axis, y_axis) for mark in _painted(marks)),
        *_labels(marks, x_axis, y_axis, frame),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        class_="chart front-chart",
        role="group",  # its points are read one by one
        aria_label=title,
        data_low=x_axis.low,
        data_high=x_axis.high,
        data_start=x_axis.start,
        data_end=x_axis.end,
    )


def _scales(marks: Sequence[Mark], frame: Frame) -> tuple[Scale, Scale]:
    xs = [x for mark in marks for x in (mark.x, mark.predicted_x, *(mark.x_bar or ())) if x is not None]
    ys = [y for mark in marks for y in (mark.y, *(mark.y_bar or ()))]
    if frame.ceiling is not None:
        # A budget far beyond every point would squeeze them into a corner; then its line stands at the edge.
        xs.append(min(frame.ceiling, 2.0 * max(xs)))
    if frame.floor is not None:
        ys.append(frame.floor)
    low, high = padded(xs, floor=0.0)
    if low < 0.35 * high:
        low = 0.0
    y_low, y_high = padded(ys)
    return (
        Scale(low, high, _LEFT, _WIDTH - _RIGHT),
        Scale(max(0.0, y_low), min(100.0, y_high) if y_high < 104 else y_high, _HEIGHT - _BOTTOM, _TOP),
    )


def _grid(x_axis: Scale, y_axis: Scale, frame: Frame) -> list[Element]:
    bottom, middle = _HEIGHT - _BOTTOM, (_LEFT + _WIDTH - _RIGHT) / 2
    parts = []
    for tick in round_ticks(y_axis.low, y_axis.high):
        y = y_axis.at(tick)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=_LEFT - 10, y=y + 4, class_="tick end"))
    for tick in round_ticks(x_axis.low, x_axis.high, 9):
        x = x_axis.at(tick)
        parts.append(el("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(el("text", f"{tick:g}", x=x, y=bottom + 21, class_="tick middle"))
    parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    parts.append(el("text", frame.x_title, x=middle, y=_HEIGHT - 10, class_="title middle"))
    turn = f"rotate(-90 16 {(_TOP + bottom) / 2:g})"
    parts.append(el("text", frame.y_title, x=16, y=(_TOP + bottom) / 2, transform=turn, class_="title middle"))
    return parts


def _limits(x_axis: Scale, y_axis: Scale, frame: Frame) -> list[Element]:
    bottom, right, parts = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, []
    if frame.ceiling is not None and frame.ceiling <= x_axis.high:
        x = x_axis.at(frame.ceiling)
        turn = f"rotate(-90 {x - 7:g} {bottom - 10:g})"
        ceiling = (
            el("rect", x=x, y=_TOP, width=right - x, height=bottom - _TOP, class_="beyond"),
            el("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="limit"),
            el("text", frame.ceiling_text, x=x - 7, y=bottom - 10, transform=turn, class_="limit-text"),
        )
        parts.append(el("g", *ceiling, class_="ceiling"))  # the slider moves it
    if frame.floor is not None and y_axis.holds(frame.floor):
        y = y_axis.at(frame.floor)
        parts.append(el("rect", x=_LEFT, y=y, width=right - _LEFT, height=bottom - y, class_="beyond"))
        parts.append(el("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="limit"))
        parts.append(el("text", frame.floor_text, x=right - 8, y=y - 6, class_="limit-text end"))
    return parts


def _cloud(points: Iterable[tuple[float, float]], x_axis: Scale, y_axis: Scale) -> Element | None:
    inside = [(x, y) for x, y in points if x_axis.holds(x) and y_axis.holds(y)]
    path = "".join(f"M{x_axis.at(x):.1f} {y_axis.at(y):.1f}h0" for x, y in inside)
    return el("path", d=path, class_="cloud") if path else None


def _staircase(marks: Sequence[Mark], series: str, x_axis: Scale, y_axis: Scale) -> Element | None:
    """What the front promises at every cost: the best point that costs no more."""
    on_front = (mark for mark in marks if mark.kind in ("front", "chosen") and mark.series == series)
    front = sorted((mark.x, mark.y) for mark in on_front)
    if len(front) < 2:
        return None
    best, path = front[0][1], f"M{x_axis.at(front[0][0]):.1f} {y_axis.at(front[0][1]):.1f}"
    for x, y in front[1:]:
        if y > best:
            path += f"H{x_axis.at(x):.1f}V{y_axis.at(y):.1f}"
            best = y
    return el("path", d=path, class_=f"staircase{_series(series)}")


def _series(letter: str) -> str:
    """The class that colours a series, with the space before it."""
    return f" series-{letter}" if letter else ""


def _painted(marks: Sequence[Mark]) -> list[Mark]:
    """In painting order: the chosen one last, on top."""
    order = ("taper", "stages", "layers", "other", "resolution", "front", "int8", "dense", "chosen-int8", "chosen")
    return sorted(marks, key=lambda mark: order.index(mark.kind))


def _bars(mark: Mark, x_axis: Scale, y_axis: Scale) -> Element | None:
    x, y, path = x_axis.at(mark.x), y_axis.at(mark.y), ""
    if mark.y_bar is not None:
        low, high = (y_axis.at(end) for end in mark.y_bar)
        path += f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"
    if mark.x_bar is not None:
        left, right = (x_axis.at(end) for end in mark.x_bar)
        path += f"M{left:.1f} {y:.1f}H{right:.1f}M{left:.1f} {y - 3:.1f}v6M{right:.1f} {y - 3:.1f}v6"
    return el("path", d=path, class_=f"bars {mark.kind}{_series(mark.series)}") if path else None


def _mark(mark: Mark, x_axis: Scale, y_axis: Scale) -> Element:
    x, y = x_axis.at(mark.x), y_axis.at(mark.y)
    ghost = []
    if mark.predicted_x is not None:
        at = x_axis.at(mark.predicted_x)
        ghost.append(el("line", x1=x, x2=at, y1=y, y2=y, class_="predicted-link"))
        ghost.append(el("g", el("circle", cx=at, cy=y, r=4.5), class_="predicted"))
    ring = el("circle", cx=x, cy=y, r=13, class_=f"ring{_series(mark.series)}") if mark.kind == "chosen" else None
    return el(
        "g",
        *ghost,
        ring,
        el("circle", cx=x, cy=y, r=14, class_="target"),
        el("g", SHAPES[mark.kind](x, y), class_=_classes(mark)),
        class_="point",
        tabindex=0,
        role="img",
        aria_label="; ".join(mark.lines) or mark.label or f"{significant(mark.x)}, {mark.y:.1f} %",
        data_key=mark.key or None,
    )


def _classes(mark: Mark) -> str:
    return f"mark {mark.kind}{'' if mark.measured else ' hollow'}{_series(mark.series)}"


def _labels(marks: Sequence[Mark], x_axis: Scale, y_axis: Scale, frame: Frame) -> list[Element]:
    """Names beside the marks that have one, moved where they would cover a mark or one another."""
    places = [(x_axis.at(mark.x), y_axis.at(mark.y)) for mark in marks]
    named = [(mark, place) for mark, place in zip(marks, places, strict=True) if mark.label]
    named.sort(key=lambda pair: pair[0].kind != "chosen")
    inside = Box(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
    wanted = [(mark.label, x, y, 17.0 if mark.kind == "chosen" else 10.0) for mark, (x, y) in named]
    places += [(x_axis.at(mark.predicted_x), y_axis.at(mark.y)) for mark in marks if mark.predicted_x is not None]
    placed = place_labels(wanted, places, inside, _covered(x_axis, y_axis, frame))
    return [
        el("text", mark.label, x=spot.x, y=spot.y, class_=f"name {mark.kind} {spot.anchor}{_series(mark.series)}")
        for (mark, _), spot in zip(named, placed, strict=True)
        if spot is not None
    ]


def _covered(x_axis: Scale, y_axis: Scale, frame: Frame) -> list[Box]:
    """The lines of the budget with their texts."""
    boxes = []
    if frame.ceiling is not None:
        x = x_axis.at(frame.ceiling)
        boxes.append(Box(x - 3, _TOP, x + 3, _HEIGHT))
        boxes.append(Box(x - 20, _HEIGHT - _BOTTOM - 10 - 7 * len(frame.ceiling_text), x, _HEIGHT))
    if frame.floor is not None:
        y = y_axis.at(frame.floor)
        boxes.append(Box(_LEFT, y - 3, _WIDTH, y + 3))
        boxes.append(Box(_WIDTH - _RIGHT - 8 - 7 * len(frame.floor_text), y - 20, _WIDTH, y))
    return boxes

"""Charts as SVG: fronts, curves over steps, bars of layers, small bars for cells.

Colours come from the page's style sheet. Each chart is drawn twice, wide and for a telephone, and the style sheet shows
one of them. Every point can be pointed at or reached by key, and tells its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from markupsafe import Markup

from tavt_kit.core.latency_table import part_words
from tavt_kit.reports.blocks import Figure
from tavt_kit.reports.markup import el
from tavt_kit.reports.words import ms_text, significant

_SIZES = {"wide": 1040.0, "narrow": 470.0}
_LEFT, _RIGHT = 66.0, 22.0
_LETTERS = "abcd"

Interval = tuple[float, float]


# Scales, ticks and axes


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map of ``low..high`` to ``start..end`` pixels; ``start`` may be the greater (a y axis)."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of ``value``; beyond the ends it is held there."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies on the axis."""
        return self.low <= value <= self.high


def round_ticks(low: float, high: float, wanted: int = 6) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten within ``low..high``, about ``wanted`` of them."""
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power, 2 * power, 5 * power, 10 * power), key=lambda step: abs(math.log(step / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # round() takes the noise of the multiplication off: 0.30000000000000004.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return tuple(round(step * i, digits) for i in range(first, last + 1))


def padded(values: Iterable[float], *, share: float = 0.06, floor: float = -math.inf) -> Interval:
    """The range of ``values`` with a margin on both sides, never below ``floor`` and never empty."""
    known = sorted(values)
    low, high = known[0], known[-1]
    margin = (high - low) * share or abs(high) * 0.1 or 1.0
    return max(floor, low - margin), high + margin


class _Plot:
    """Axes between the pixels ``bottom`` and ``top``, with about so many ``ticks``, and what is drawn between them."""

    def __init__(
        self, size: str, x: Interval, y: Interval, bottom: float, top: float, y_title: str, x_title: str = "",
        ticks: tuple[int, int] = (0, 5),
    ) -> None:  # fmt: skip
        self.size, self.is_wide = size, size == "wide"
        self.x, self.y = Scale(*x, _LEFT, _SIZES[size] - _RIGHT), Scale(*y, bottom, top)
        self.parts: list[Markup | None] = []
        start, end, middle = self.x.start, self.x.end, (bottom + top) / 2
        for tick in round_ticks(*y, ticks[1]):
            at = self.y.at(tick)
            self.parts.append(el("line", x1=start, x2=end, y1=at, y2=at, class_="grid"))
            self.parts.append(el("text", f"{tick:g}", x=start - 10, y=at + 4, class_="tick end"))
        for tick in round_ticks(*x, ticks[0] if self.is_wide else 5) if ticks[0] else ():
            at = self.x.at(tick)
            self.parts.append(el("line", x1=at, x2=at, y1=bottom, y2=bottom + 5, class_="axis"))
            self.parts.append(el("text", f"{tick:g}", x=at, y=bottom + 19, class_="tick middle"))
        self.parts.append(el("line", x1=start, x2=end, y1=bottom, y2=bottom, class_="axis"))
        turn = f"rotate(-90 16 {middle:g})"
        self.parts.append(el("text", y_title, x=16, y=middle, transform=turn, class_="title middle"))
        if x_title:
            self.parts.append(el("text", x_title, x=(start + end) / 2, y=bottom + 40, class_="title middle"))

    def at(self, x: float, y: float) -> Interval:
        """The pixel of a point."""
        return self.x.at(x), self.y.at(y)

    def path(self, points: Iterable[Interval], look: str, end: str = "") -> None:
        """A line through the points; a closed one ends with Z."""
        line = "L".join("{:.1f} {:.1f}".format(*self.at(*point)) for point in points)
        self.parts.append(el("path", d=f"M{line}{end}", class_=look))

    def hover(self, left: float, width: float, lines: Sequence[str]) -> None:
        """An unseen rectangle from top to bottom, in pixels, so that what is thin can be pointed at."""
        height = self.y.start - self.y.end
        area = el("rect", x=left, y=self.y.end, width=width, height=height, class_="target")
        self.parts.append(el("g", area, class_="point", tabindex=0, role="img", aria_label="; ".join(lines)))

    def svg(self, height: float, title: str, look: str = "") -> Markup:
        """The whole chart, a group whose points are read one by one; its title is what a screen reader says."""
        view, look = f"0 0 {_SIZES[self.size]:g} {height:g}", f"chart {self.size}{look}"
        return el("svg", *self.parts, viewBox=view, class_=look, role="group", aria_label=title)


def _drawn(draw: Callable[[str], Markup]) -> Markup:
    """The chart in every size."""
    return el("div", *(draw(size) for size in _SIZES), class_="sizes")


def legend(entries: Iterable[tuple[Markup, str, str]]) -> Markup:
    """A list of shapes, drawn around (10, 10) in a square of 20, each with its class and its meaning."""
    items = (
        el("li", el("svg", el("g", shape, class_=name), viewBox="0 0 20 20", class_="key", aria_hidden="true"), words)
        for shape, name, words in entries
    )
    return el("ul", *items, class_="legend")


_CHAR, _LINE = 6.9, 15.0
"""Pixels of an average character and of a line at 13 px."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    def holds(self, other: Box) -> bool:
        """Whether ``other`` lies within."""
        sides = self.left <= other.left and other.right <= self.right
        return sides and self.top <= other.top and other.bottom <= self.bottom


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a text's baseline begins, centres or ends."""

    x: float
    y: float
    anchor: Literal["start", "middle", "end"]

    def box(self, text: str) -> Box:
        """What the text covers."""
        width = _CHAR * len(text)
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return Box(left, self.y - _LINE + 3, left + width, self.y + 3)


def place_label(text: str, x: float, y: float, gap: float, inside: Box, taken: Sequence[Box]) -> Spot | None:
    """A spot beside (x, y), ``gap`` away from it, where a text lies inside and covers nothing that is taken."""
    sides: tuple[tuple[float, Literal["start", "end"]], ...] = ((x + gap, "start"), (x - gap, "end"))
    spots = [Spot(across, y + 4, anchor) for across, anchor in sides]
    spots += [Spot(x, y - gap - 3, "middle"), Spot(x, y + gap + 11, "middle")]
    # Further off, above and below, where error bars leave room; then beyond the upright text of a budget.
    steps = (-gap, gap + 8, -gap - 12, gap + 20)
    spots += [Spot(across, y + step, anchor) for step in steps for across, anchor in sides]
    beyond: tuple[tuple[float, Literal["start", "end"]], ...] = ((x + gap + 22, "start"), (x - gap - 22, "end"))
    spots += [Spot(across, y + step, anchor) for step in (4.0, *steps) for across, anchor in beyond]
    for spot in spots:
        box = spot.box(text)
        if inside.holds(box) and all(box.overlap(other) <= 1.0 for other in taken):
            return spot
    return None


# The front: cost to the right, accuracy upwards, with doubt, predictions, budget and baselines


Kind = Literal["chosen", "front", "dense", "int8", "resolution", "layers", "taper", "stages", "other"]

KINDS: dict[Kind, str] = {
    "chosen": "chosen",
    "front": "fewer tokens",
    "dense": "dense, f32",
    "int8": "dense, INT8",
    "resolution": "lower resolution",
    "layers": "fewer layers",
    "taper": "uniform taper",
    "stages": "stage schedule",
    "other": "other baseline",
}
"""Kinds of marks, in the order of the legend."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One point of the chart: its cost ``x`` (ms, or multiply-adds in G), and its accuracy ``y`` in percent.

    Where ``x`` is not ``measured`` it is drawn hollow. The lines are the hover text; the key ties it to a table's row.
    """

    kind: Kind
    label: str
    x: float
    y: float
    x_bar: Interval | None = None
    y_bar: Interval | None = None
    measured: bool = True
    lines: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the axes mean: their titles, and the lines of a budget on cost and of the least accuracy asked for."""

    x_title: str
    y_title: str
    ceiling: float | None = None
    ceiling_text: str = ""
    floor: float | None = None
    floor_text: str = ""


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float], Markup]:
    def draw(x: float, y: float) -> Markup:
        return el("path", d="M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "Z")

    return draw


def _circle(radius: float) -> Callable[[float, float], Markup]:
    return lambda x, y: el("circle", cx=x, cy=y, r=radius)


SHAPES: dict[Kind, Callable[[float, float], Markup]] = {
    "taper": lambda x, y: el("path", d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", class_="cross"),
    "stages": _polygon((0, 7), (6.5, -5), (-6.5, -5)),
    "layers": _polygon((-7, -3), (7, -3), (7, 3), (-7, 3)),
    "other": _polygon((0, -6), (6, -1.5), (3.6, 5.5), (-3.6, 5.5), (-6, -1.5)),
    "resolution": _polygon((0, -7), (6.5, 5), (-6.5, 5)),
    "front": _circle(5),
    "int8": _polygon((0, -7), (7, 0), (0, 7), (-7, 0)),
    "dense": _polygon((-5, -5), (5, -5), (5, 5), (-5, 5)),
    "chosen": _circle(7),
}
"""Draws each kind of mark around a point; in painting order, the chosen one last, on top."""

_TOP, _BOTTOM = 20.0, 382.0


def front_figure(
    marks: Sequence[Mark], frame: Frame, title: str, caption: str = "", cloud: Sequence[Interval] = ()
) -> Figure:
    """A front with its legend: at least one mark, those of kind ``chosen`` and ``front`` joined to a staircase.

    The ``cloud`` is drawn faintly behind; its points beyond the axes are left out.
    """
    ranges = _ranges(marks, frame)
    painted = sorted(marks, key=lambda mark: list(SHAPES).index(mark.kind))

    def draw(size: str) -> Markup:
        plot = _Plot(size, *ranges, _BOTTOM, _TOP, frame.y_title, frame.x_title, ticks=(9, 6))
        limits, covered = _limits(plot, frame, [box for mark in marks for box in _boxes(plot, mark)])
        faint = (plot.at(x, y) for x, y in cloud if plot.x.holds(x) and plot.y.holds(y))
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in faint)
        plot.parts += [
            *limits,
            el("path", d=dots, class_="cloud") if dots else None,
            _staircase(plot, marks),
            *(_bars(plot, mark) for mark in painted),
            *(_mark(plot, mark) for mark in painted),
            *_labels(plot, marks, covered),
        ]
        return plot.svg(434, title, " front-chart")

    return Figure(title, _drawn(draw), caption, _front_legend(marks, bool(cloud)))


def _front_legend(marks: Sequence[Mark], cloud: bool) -> Markup:
    """The shapes that occur, with their meaning."""
    kinds = [kind for kind in KINDS if any(mark.kind == kind for mark in marks)]
    entries = [(SHAPES[kind](10.0, 10.0), f"mark {kind}", KINDS[kind]) for kind in kinds]
    if not all(mark.measured for mark in marks):
        entries.append((el("circle", cx=10, cy=10, r=4.5), "predicted", "predicted from the layer table"))
    if any(mark.y_bar for mark in marks):
        entries.append((el("path", d="M10 2V18M6 2H14M6 18H14"), "bars", "95 % interval of the accuracy"))
    if any(mark.x_bar for mark in marks):
        entries.append((el("path", d="M2 10H18M2 6V14M18 6V14"), "bars", "95 % bounds of the latency"))
    if cloud:
        entries.append((el("path", d="M6 13h0M10 7h0M14 12h0"), "cloud", "also measured"))
    return legend(entries)


def _ranges(marks: Sequence[Mark], frame: Frame) -> tuple[Interval, Interval]:
    """What the axes hold; a baseline far below everything else is drawn at the edge instead."""
    xs = [x for mark in marks for x in (mark.x, *(mark.x_bar or ()))]
    if frame.ceiling is not None and frame.ceiling <= 2.0 * max(xs):
        xs.append(frame.ceiling)  # one far beyond every point would squeeze them into a corner
    low, high = padded(xs, floor=0.0)
    heights = [(mark.kind, (mark.y, *(mark.y_bar or ()))) for mark in marks]
    main = [y for kind, ys in heights if kind in ("chosen", "front", "dense") for y in ys]
    least = min(main) - 2.0 * (max(main) - min(main) or 10.0) if main else -math.inf
    shown = [y for _, ys in heights if ys[0] >= least for y in ys]
    y_low, y_high = padded([*shown, *(() if frame.floor is None else (frame.floor,))])
    y_high = min(100.0, y_high) if y_high < 104 else y_high
    return (0.0 if low < 0.35 * high else low, high), (max(0.0, y_low), y_high)


def _boxes(plot: _Plot, mark: Mark) -> list[Box]:
    """What a mark covers, then what its error bars do."""
    x, y = plot.at(mark.x, mark.y)
    boxes = [Box(x - 6, y - 6, x + 6, y + 6)]
    if mark.y_bar is not None:
        boxes.append(Box(x - 3, plot.y.at(mark.y_bar[1]), x + 3, plot.y.at(mark.y_bar[0])))
    if mark.x_bar is not None:
        boxes.append(Box(plot.x.at(mark.x_bar[0]), y - 3, plot.x.at(mark.x_bar[1]), y + 3))
    return boxes


def _limits(plot: _Plot, frame: Frame, taken: Sequence[Box]) -> tuple[list[Markup], list[Box]]:
    """The lines of the budget with their texts, beside what is ``taken``, and what they cover."""
    left, right, parts, covered = plot.x.start, plot.x.end, list[Markup](), list[Box]()
    wide = 9.5 * len(frame.ceiling_text)  # bold
    if frame.ceiling is not None and frame.ceiling > plot.x.high:
        parts.append(el("text", f"{frame.ceiling_text} →", x=right - 8, y=_TOP + 16, class_="limit-text end"))
        covered.append(Box(right - 24 - wide, _TOP, right, _TOP + 20))
    elif frame.ceiling is not None:
        x = plot.x.at(frame.ceiling)
        # Upright, left of the line or right of it, at its foot or its head: the first where it crosses least.
        ways = [(x + across, y) for across in (-7, 17) for y in (_BOTTOM - 10, _TOP + wide + 10) if x + across < right]
        boxes = [Box(across - 13, y - wide, across + 3, y) for across, y in ways]
        crossed = [sum(box.overlap(other) for other in taken) for box in boxes]
        index = crossed.index(min(crossed))
        across, y = ways[index]
        turn = f"rotate(-90 {across:g} {y:g})"
        parts += [
            el("rect", x=x, y=_TOP, width=right - x, height=_BOTTOM - _TOP, class_="beyond"),
            el("line", x1=x, x2=x, y1=_TOP, y2=_BOTTOM, class_="limit"),
            el("text", frame.ceiling_text, x=across, y=y, transform=turn, class_="limit-text"),
        ]
        covered += [Box(x - 3, _TOP, x + 3, _BOTTOM), boxes[index]]
    if frame.floor is not None:
        y = plot.y.at(frame.floor)
        covered += [Box(left, y - 3, right, y + 3), Box(right - 8 - 7 * len(frame.floor_text), y - 20, right, y)]
        if plot.y.holds(frame.floor):
            parts.append(el("rect", x=left, y=y, width=right - left, height=_BOTTOM - y, class_="beyond"))
            parts.append(el("line", x1=left, x2=right, y1=y, y2=y, class_="limit"))
            parts.append(el("text", frame.floor_text, x=right - 8, y=y - 6, class_="limit-text end"))
    return parts, covered


def _staircase(plot: _Plot, marks: Sequence[Mark]) -> Markup | None:
    """What the front promises at every cost: the best point that costs no more."""
    front = sorted((mark.x, mark.y) for mark in marks if mark.kind in ("front", "chosen"))
    if len(front) < 2:
        return None
    best, path = front[0][1], "M{:.1f} {:.1f}".format(*plot.at(*front[0]))
    for x, y in front[1:]:
        if y > best:
            path += "H{:.1f}V{:.1f}".format(*plot.at(x, y))
            best = y
    return el("path", d=path, class_="staircase")


def _bars(plot: _Plot, mark: Mark) -> Markup | None:
    (x, y), path = plot.at(mark.x, mark.y), ""
    if mark.y_bar is not None:
        low, high = (plot.y.at(end) for end in mark.y_bar)
        path += f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"
    if mark.x_bar is not None:
        left, right = (plot.x.at(end) for end in mark.x_bar)
        path += f"M{left:.1f} {y:.1f}H{right:.1f}M{left:.1f} {y - 3:.1f}v6M{right:.1f} {y - 3:.1f}v6"
    return el("path", d=path, class_=f"bars {mark.kind}") if path else None


def _mark(plot: _Plot, mark: Mark) -> Markup:
    x, y = plot.at(mark.x, mark.y)
    ring = el("circle", cx=x, cy=y, r=13, class_="ring") if mark.kind == "chosen" else None
    look = f"mark {mark.kind}{'' if mark.measured else ' hollow'}"
    parts = (ring, el("circle", cx=x, cy=y, r=14, class_="target"), el("g", SHAPES[mark.kind](x, y), class_=look))
    words = "; ".join(mark.lines) or mark.label or f"{significant(mark.x)}, {mark.y:.1f} %"
    return el("g", *parts, class_="point", tabindex=0, role="img", aria_label=words, data_key=mark.key or None)


_FEW = 8
"""Names of so many marks cross error bars where they have no other place; of more, what has no place is not named."""


def _labels(plot: _Plot, marks: Sequence[Mark], covered: list[Box]) -> list[Markup]:
    """Names beside the marks that have one, where they cover no mark, no error bar and no other name."""
    spots, named, limits = list[Box](), list[tuple[Mark, str, float, float, list[Box]]](), list(covered)
    names = list[Box]()
    for mark in marks:
        (x, y), (own, *bars) = plot.at(mark.x, mark.y), _boxes(plot, mark)
        spots.append(own)
        covered += bars
        off = "" if plot.y.holds(mark.y) else f"{mark.y:.1f} % ↓"  # it is drawn at the edge
        label = mark.label if plot.is_wide or mark.kind != "chosen" else mark.kind
        if text := " ".join(filter(None, (label, off))):
            named.append((mark, text, x, y, bars))
    inside, parts = Box(plot.x.start, _TOP, plot.x.end, _BOTTOM), list[Markup]()
    for mark, text, x, y, bars in sorted(named, key=lambda entry: entry[0].kind != "chosen"):
        gap = 17.0 if mark.kind == "chosen" else 10.0
        spot = place_label(text, x, y, gap, inside, [*covered, *spots])
        if spot is None and (
            mark.kind == "chosen" or len(named) <= _FEW
        ):  # even across bars, of other marks if possible
            tries = ([*limits, *bars], limits, bars, ()) if mark.kind == "chosen" else ([*limits, *bars], limits)
            found = (place_label(text, x, y, gap, inside, [*taken, *spots, *names]) for taken in tries)
            spot = next(filter(None, found), None)
        if spot is not None:
            names.append(spot.box(text))
            covered.append(names[-1])
            parts.append(el("text", text, x=spot.x, y=spot.y, class_=f"name {mark.kind} {spot.anchor}"))
    return parts


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of (step, value), by step; ``spread`` is (step, least, greatest) around it, ``ring`` a ringed step."""

    name: str
    points: tuple[tuple[float, float], ...]
    spread: tuple[tuple[float, float, float], ...] = ()
    dots: bool = False
    ring: float | None = None


def thinned(name: str, points: Sequence[tuple[float, float]], most: int = 60, *, spread: bool = False) -> Curve:
    """A curve of at most ``most`` points, each the mean of as many neighbours."""
    size = max(1, -(-len(points) // most))
    groups = [list(zip(*points[start : start + size], strict=True)) for start in range(0, len(points), size)]
    around = tuple((fmean(xs), min(ys), max(ys)) for xs, ys in groups) if spread and size > 1 else ()
    return Curve(name, tuple((fmean(xs), fmean(ys)) for xs, ys in groups), around)


def curve_figure(curves: Sequence[Curve], last: float, y_title: str, title: str) -> Figure:
    """One to four curves over their steps, with the spread of the first; the axis ends at ``last``."""
    values = [y for curve in curves for _, y in curve.points]
    spread = curves[0].spread
    values += [end for _, *ends in spread for end in ends]
    ends = padded(values, floor=0.0 if min(values) >= 0 else -math.inf)

    def draw(size: str) -> Markup:
        plot = _Plot(size, (0.0, max(1.0, last)), ends, 234.0, 16.0, y_title, "step", ticks=(8, 5))
        if spread:
            around = [*((x, high) for x, _, high in spread), *((x, low) for x, low, _ in reversed(spread))]
            plot.path(around, "band", "Z")
        for letter, curve in zip(_LETTERS, curves, strict=False):
            if len(curve.points) > 1:
                plot.path(curve.points, f"curve curve-{letter}")
            dots = [(point, 3.5, "seen") for point in curve.points if curve.dots or len(curve.points) == 1]
            dots += [(point, 7, "ring") for point in curve.points if point[0] == curve.ring]
            for point, radius, look in dots:
                x, y = plot.at(*point)
                plot.parts.append(el("circle", cx=x, cy=y, r=radius, class_=look))
        slots = 24  # side by side, each telling the values nearest to its middle
        width = (plot.x.end - plot.x.start) / slots
        for slot in range(slots):
            step = plot.x.low + (plot.x.high - plot.x.low) * (slot + 0.5) / slots
            near = [min(curve.points, key=lambda point: abs(point[0] - step)) for curve in curves]
            numbers = (f"{curve.name} {significant(value)}" for curve, (_, value) in zip(curves, near, strict=True))
            plot.hover(plot.x.start + slot * width, width, [f"about step {near[0][0]:.0f}", *numbers])
        return plot.svg(280, title)

    line = el("path", d="M2 10H18")
    entries = [(line, f"curve curve-{letter}", curve.name) for letter, curve in zip(_LETTERS, curves, strict=False)]
    if spread:
        around = f"{curves[0].name}, least to greatest of neighbouring steps"
        entries.append((el("rect", x=2, y=4, width=16, height=12), "band", around))
    if any(curve.ring is not None for curve in curves):
        entries.append((el("circle", cx=10, cy=10, r=6), "ring", "selected"))
    is_plain = len(curves) == 1 and not spread and not curves[0].dots  # then the axis says it all
    return Figure(title, _drawn(draw), "", None if is_plain else legend(entries))


def layer_figure(names: Sequence[str], models: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Groups of bars: a group for each part ``names`` (stem, 0, 1, ..., head), a bar for each of at most two models."""
    highest = max([1e-9, *(ms for parts in models.values() for ms in parts.values())])

    def draw(size: str) -> Markup:
        plot = _Plot(size, (0.0, len(names)), (0.0, 1.08 * highest), 204.0, 16.0, "ms", "layer")
        slot = (plot.x.end - plot.x.start) / len(names)
        width, every = 0.8 * slot / len(models), max(1, round(24 / slot))
        for index, name in enumerate(names):
            lines = [part_words(name)]
            for number, (model, parts) in enumerate(models.items()):
                if name in parts:
                    top, left = plot.y.at(parts[name]), plot.x.at(index + 0.1) + number * width
                    sides = {"width": max(1.0, width - 1), "height": max(0.0, plot.y.start - top)}
                    plot.parts.append(el("rect", x=left, y=top, **sides, class_=f"bar-{_LETTERS[number]}"))
                    lines.append(f"{model} {ms_text(parts[name])}")
            plot.hover(plot.x.at(index), slot, lines)
            # Narrow bars have no room for every number, and for none of the names of the ends.
            if every == 1 or (name.isdigit() and not int(name) % every):
                middle = plot.x.at(index + 0.5)
                plot.parts.append(el("text", name, x=middle, y=plot.y.start + 19, class_="tick middle"))
        return plot.svg(250, title)

    key = el("rect", x=3, y=3, width=14, height=14)
    entries = [(key, f"bar-{letter}", model) for letter, model in zip(_LETTERS, models, strict=False)]
    return Figure(title, _drawn(draw), "", legend(entries))


def schedule_bar(counts: Sequence[int], tokens: int, text: str) -> Markup:
    """A schedule as a row of small bars, one a layer: how high is how many of the dense model's tokens stay."""
    full = 22.0
    step, gap = (8.0, 2.0) if len(counts) <= 16 else (5.0, 1.0)
    bars = [el("rect", x=i * step, y=0, width=step - gap, height=full, class_="full") for i in range(len(counts))]
    for i, count in enumerate(counts):
        height = max(1.0, full * min(1.0, count / max(1, tokens)))
        bars.append(el("rect", x=i * step, y=full - height, width=step - gap, height=height, class_="kept"))
    width = len(counts) * step - gap
    view = f"0 0 {width:g} {full:g}"
    return el("svg", *bars, class_="schedule", role="img", aria_label=text, viewBox=view, width=width, height=full)

"""Accuracy against measured latency as one SVG file: a line for each method through its strengths, ours in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from peers.plan import AGAIN, DENSE, DROPS, SEARCHED
from peers.table import median
from tavt_kit.reports.charts import SHAPES, Box, Kind, Scale, Spot, padded, place_label, round_ticks
from tavt_kit.reports.markup import el

WIDTH, HEIGHT = 1040.0, 560.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 22.0, 46.0, 58.0
STYLES: dict[str, tuple[Kind, str]] = {
    SEARCHED: ("chosen", "own"),
    f"{SEARCHED} + INT8": ("int8", "own hollow"),
    AGAIN: ("front", "own"),
    f"{AGAIN} + INT8": ("front", "own hollow"),
    DROPS: ("stages", "own"),
    f"{DROPS} + INT8": ("stages", "own hollow"),
    "ours, uniform taper": ("taper", "own"),
    DENSE: ("dense", "ink"),
    "INT8 alone": ("int8", "ink hollow"),
    "official-style TAVT": ("stages", "c1"),
    "EViT": ("front", "c2"),
    "Top-K": ("resolution", "c2 hollow"),
    "random drop": ("other", "c2 hollow"),
    "ToMe": ("other", "c3"),
    "ToMe, not trained": ("other", "c3 hollow"),
    "lower resolution": ("resolution", "c4"),
    "fewer layers": ("dense", "c5"),
    "smaller model": ("int8", "c5 hollow"),
    "pruning alone": ("stages", "c5 hollow"),
}
"""Method -> shape and colour."""

STYLE = """
svg { --paper: #ffffff; --ink: #17212b; --soft: #556370; --line: #dbe1e6; --own: #b4440c;
  --c1: #6a3fa0; --c2: #0b6e75; --c3: #3b55b5; --c4: #7a6200; --c5: #a3293b;
  background: var(--paper); font: 13px system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #18212a; --ink: #e6ecf1; --soft: #a3b1bd; --line: #33404c;
  --own: #ff9a62; --c1: #c9a8f5; --c2: #5cc3ca; --c3: #a3b4ff; --c4: #e0c34a; --c5: #ff8a9a; } }
.ink { --hue: var(--ink); } .own { --hue: var(--own); } .c1 { --hue: var(--c1); } .c2 { --hue: var(--c2); }
.c3 { --hue: var(--c3); } .c4 { --hue: var(--c4); } .c5 { --hue: var(--c5); }
text { fill: var(--soft); } text.name, text.head { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
text.name { fill: var(--hue); } text.head { fill: var(--ink); font-size: 16px; font-weight: 600; }
.middle { text-anchor: middle; } .end { text-anchor: end; } .own.name { font-weight: 650; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
.run { fill: none; stroke: var(--hue); stroke-width: 1.4; opacity: 0.55; } .run.own { stroke-width: 2.2; opacity: 1; }
.mark { fill: var(--hue); stroke: var(--paper); } .mark.hollow, .mark:has(.cross) { fill: var(--paper);
  stroke: var(--hue); stroke-width: 2; }
.bars { stroke: var(--hue); opacity: 0.3; }
"""


def chart(entries: Sequence[Mapping[str, Any]], target: str, title: str) -> str:
    """The SVG file's text.

    Args:
        entries: From ``figures``; those without a latency on the target are left out.
        target: Which latencies.
        title: Above the image.
    """
    shown = [entry for entry in entries if median(entry, target) is not None]
    xs = [at for entry in shown if (at := median(entry, target)) is not None]
    ends = [100 * end for entry in shown for end in entry["top1"]["ci95"]]
    low, high = padded(xs, floor=0.0)
    x_axis = Scale(0.0 if low < 0.35 * high else low, high, LEFT, WIDTH - RIGHT)
    y_low, y_high = padded(ends, floor=0.0)
    y_axis = Scale(y_low, min(100.0, y_high), HEIGHT - BOTTOM, TOP)
    lines = {method: [entry for entry in shown if entry["method"] == method] for method in STYLES}
    parts = [*frame(x_axis, y_axis, target), el("text", title, x=LEFT, y=26, class_="head")]
    for method, line in reversed(list(lines.items())):
        parts += drawn(method, [(point(entry, x_axis, y_axis, target), entry) for entry in line], y_axis)
    parts += names(lines, x_axis, y_axis, target)
    svg = el("svg", el("title", title), el("style", Markup(STYLE)), *parts, xmlns="http://www.w3.org/2000/svg",
             viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", width=int(WIDTH), height=int(HEIGHT), role="img",
             aria_label=title)  # fmt: skip
    return str(svg) + "\n"


def point(entry: Mapping[str, Any], x_axis: Scale, y_axis: Scale, target: str) -> tuple[float, float]:
    at = median(entry, target)
    assert at is not None  # those without were left out
    return x_axis.at(at), y_axis.at(100 * entry["top1"]["value"])


def frame(x_axis: Scale, y_axis: Scale, target: str) -> list[Markup]:
    """Grid, ticks and what the axes are."""
    bottom, right, parts = HEIGHT - BOTTOM, WIDTH - RIGHT, []
    for tick in round_ticks(y_axis.low, y_axis.high):
        y = y_axis.at(tick)
        parts += [el("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"),
                  el("text", f"{tick:g}", x=LEFT - 10, y=y + 4, class_="end")]  # fmt: skip
    for tick in round_ticks(x_axis.low, x_axis.high, 9):
        x = x_axis.at(tick)
        parts += [el("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"),
                  el("text", f"{tick:g}", x=x, y=bottom + 21, class_="middle")]  # fmt: skip
    parts.append(el("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    across = f"median latency of one image, ms ({target.split(':')[0]}; f32 where INT8 is not named)"
    parts.append(el("text", across, x=(LEFT + right) / 2, y=HEIGHT - 10, class_="middle"))
    turn = f"rotate(-90 16 {(TOP + bottom) / 2:g})"
    parts.append(el("text", "top-1 on test, %, with 95 % intervals", x=16, y=(TOP + bottom) / 2, transform=turn,
                    class_="middle"))  # fmt: skip
    return parts


def drawn(method: str, line: Sequence[tuple[tuple[float, float], Mapping[str, Any]]], y_axis: Scale) -> list[Markup]:
    """A method's line, intervals and marks."""
    kind, colour = STYLES[method]
    places = sorted(place for place, _ in line)
    parts = []
    if len(places) > 1:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(el("path", d=path, class_=f"run {colour}"))
    for (x, y), entry in line:
        low, high = (y_axis.at(100 * end) for end in entry["top1"]["ci95"])
        said = f"{entry['name']}: {100 * entry['top1']['value']:.1f} %"
        parts.append(el("line", x1=x, x2=x, y1=low, y2=high, class_=f"bars {colour}"))
        parts.append(el("g", el("title", said), SHAPES[kind](x, y), class_=f"mark {colour}"))
    return parts


def names(lines: Mapping[str, Sequence[Mapping[str, Any]]], x_axis: Scale, y_axis: Scale, target: str) -> list[Markup]:
    """Each method's name once: beside its slowest mark with room for it, else over what is there."""
    places = {method: [point(entry, x_axis, y_axis, target) for entry in line] for method, line in lines.items()}
    marks = [Box(x - 6, y - 6, x + 6, y + 6) for line in places.values() for x, y in line]
    inside = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    parts, covered = [], list[Box]()
    for method, line in places.items():
        ends = sorted(line, reverse=True)
        spots = (place_label(method, x, y, 10.0, inside, [*covered, *marks]) for x, y in ends)
        spot = next((one for one in spots if one is not None), None)
        wide = 7.0 * len(method)
        if spot is None and ends:
            x, y = ends[0]
            spot = Spot(x + 10, y - 8, "start") if x + 10 + wide < inside.right else Spot(x - 10, y - 8, "end")
        if spot is None:
            continue
        left = {"start": spot.x, "middle": spot.x - wide / 2, "end": spot.x - wide}[spot.anchor]
        covered.append(Box(left, spot.y - 12, left + wide, spot.y + 4))
        parts.append(el("text", method, x=spot.x, y=spot.y, class_=f"name {STYLES[method][1]} {spot.anchor}"))
    return parts

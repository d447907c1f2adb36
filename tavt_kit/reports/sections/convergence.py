"""How the search went: its hypervolume over evaluations and over time, and the schedules that it weighed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tavt_kit.reports.blocks import Block, Figure, Missing, Section, Text
from tavt_kit.reports.charts import Curve, curve_chart, curve_legend
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import percent_text
from tavt_kit.reports.views import CandidateView, number, sequence

__all__ = ["convergence_section"]

_ANCHOR, _TITLE = "convergence", "How the search went"

_MOST = 200
"""Points of a line; a longer search is thinned out, its last point always kept."""


def convergence_section(records: Records) -> Section | Missing:
    """The convergence of a search, and its schedules."""
    front = records.first("front")
    if not front:
        return Missing("How a search converged", "fgvc-kit search MODEL --budget latency=20ms")
    volumes = [number({"v": volume}, "v") for volume in sequence(front, "history")]
    known = [(place, volume) for place, volume in enumerate(volumes, 1) if volume is not None]
    blocks: list[Block] = []
    if len(known) > 1:
        blocks += [Text.of(_said(known)), _volume(known, "evaluations")]
        if timed := _timed(known, records.candidates):
            blocks.append(_volume(timed, "seconds of evaluation"))
    if shown := _shown(FrontView.of(front)):
        blocks.append(_schedules(shown))
    return Section(_ANCHOR, _TITLE, tuple(blocks)) if blocks else Missing("How a search converged", "fgvc-kit search")


def _said(known: Sequence[tuple[float, float]]) -> str:
    """When the search had nearly all of what it found."""
    last, final = known[-1]
    if final <= 0:
        return "The search found nothing within the budget that is cheaper than the dense model."
    place = next(place for place, volume in known if volume >= 0.99 * final)
    return (
        f"After {place:.0f} of {last:.0f} evaluations ({percent_text(place / last, 0)}) the front had 99\u00a0% of the "
        f"hypervolume that it has in the end, {final:.4f} (cost relative to dense, reference point 1, 0)."
    )


def _timed(known: Sequence[tuple[float, float]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Against the time of evaluations, as far as ``candidates.csv`` has it."""
    try:
        clock = [float(row.get("seconds") or "nan") for row in rows]
    except ValueError:
        return []
    if len(clock) < len(known) or any(not later >= earlier for earlier, later in zip(clock, clock[1:], strict=False)):
        return []
    return [(clock[int(place) - 1], volume) for place, volume in known]


def _volume(points: Sequence[tuple[float, float]], along: str) -> Figure:
    step = -(-len(points) // _MOST)
    thin = tuple(points[(len(points) - 1) % step :: step])
    name = f"Hypervolume of the front over {along}"
    return Figure(name, curve_chart([Curve("hypervolume", thin)], thin[-1][0], "hypervolume", name, x_title=along), "")


def _shown(view: FrontView) -> list[tuple[str, CandidateView]]:
    """Up to four schedules: the chosen one (else the best), the cheapest of the front, the uniform and stage ones."""
    first = view.pick or (view.candidates[-1] if view.candidates else None)
    named = [("chosen" if view.pick else "best of the front", first)]
    named += [("cheapest of the front", view.candidates[0] if view.candidates else None)]
    for origin, name in (("taper", "uniform taper"), ("stages", "stage schedule")):
        named.append((name, next((one for one in view.baselines if one.origin == origin), None)))
    found: list[tuple[str, CandidateView]] = []
    for name, one in named:
        if one is not None and one.counts and all(one.schedule != other.schedule for _, other in found):
            found.append((name, one))
    return found


def _schedules(shown: Sequence[tuple[str, CandidateView]]) -> Figure:
    curves = [
        Curve(name, tuple((float(layer), float(count)) for layer, count in enumerate(one.counts, 1)), dots=True)
        for name, one in shown
    ]
    layers = max(len(one.counts) for _, one in shown)
    name = "Tokens kept after each layer"
    caption = "The baselines are the best of their kind that were evaluated within the budget."
    chart = curve_chart(curves, layers, "tokens", name, x_title="layer")
    return Figure(name, chart, caption if len(shown) > 2 else "", curve_legend(curves))

"""The points of the front's chart, from the records."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tavt_kit.reports.charts import Kind, Mark
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.numbers import macs_text, ms_text
from tavt_kit.reports.rows import FinalView
from tavt_kit.reports.views import CandidateView, TimeView

__all__ = ["Axes", "axes_of", "cloud_of", "marks_of", "span"]

_KIND_OF_ORIGIN: dict[str, Kind] = {
    "dense": "dense",
    "taper": "taper",
    "stages": "stages",
    "resolution": "resolution",
    "int8": "int8",
}


def cloud_of(records: Records, view: FrontView, axes: Axes) -> list[tuple[float, float]]:
    """What else was evaluated, from ``candidates.csv``: (cost, accuracy in percent).

    Candidates that were stopped early are known by a part of the pictures only; they are left out.
    """
    shown = {candidate.schedule for candidate in (*view.candidates, *view.baselines)}
    points = []
    most = max((_float(row.get("n")) or 0 for row in records.candidates), default=0)
    for row in records.candidates:
        if (_float(row.get("n")) or most) < most:
            continue
        cost = _float(row.get("predicted_ms" if axes.measured else "macs"))
        value = _float(row.get("value"))
        if cost is not None and value is not None and row.get("schedule") not in shown:
            points.append((cost if axes.measured else cost / 1e9, 100 * value))
    return points


def _float(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Axes:
    """Which quantities the chart shows."""

    measured: bool
    statistic: str


def axes_of(view: FrontView) -> Axes:
    return Axes(any(candidate.time is not None for candidate in view.candidates), view.statistic)


def marks_of(view: FrontView, final: Iterable[FinalView], *, timed: bool | None = None) -> list[Mark]:
    """The marks of a front, its baselines and the closing table.

    Args:
        view: The front.
        final: Rows of the closing table; those of another split are left out.
        timed: Whether latency is what they stand at; by default where it is known.
    """
    axes = axes_of(view) if timed is None else Axes(timed, view.statistic)
    marks = [
        mark
        for index, candidate in enumerate(view.candidates)
        if (mark := _mark(candidate, _kind(view, index), _name(view, index), axes, f"c{index}"))
    ]
    drawn = {candidate.schedule for candidate in view.candidates}
    marks += [
        mark
        for index, base in enumerate(view.baselines)
        if base.schedule not in drawn
        and (mark := _mark(base, _KIND_OF_ORIGIN.get(base.origin, "other"), "", axes, f"b{index}"))
    ]
    # Figures of another split do not belong on the same axis.
    marks += [
        mark for row in final if row.split == view.split and row.kind != "chosen" and (mark := _final_mark(row, axes))
    ]
    return marks


def _kind(view: FrontView, index: int) -> Kind:
    return "chosen" if index == view.chosen else "dense" if view.candidates[index].origin == "dense" else "front"


def _name(view: FrontView, index: int) -> str:
    if index == view.chosen:
        return "chosen"
    return "dense" if view.candidates[index].origin == "dense" else ""


def _mark(candidate: CandidateView, kind: Kind, name: str, axes: Axes, key: str) -> Mark | None:
    accuracy, time = candidate.accuracy, candidate.time
    if accuracy is None:
        return None
    y_bar = None if accuracy.low is None or accuracy.high is None else (100 * accuracy.low, 100 * accuracy.high)
    x, x_bar, predicted = _cost(candidate, axes)
    if x is None:
        return None
    lines = [
        {"chosen": "chosen"}.get(kind, candidate.origin or kind),
        candidate.schedule,
        f"{accuracy}" + (f" (95 % {accuracy.interval})" if accuracy.interval else ""),
        *(_time_lines(time) if time is not None else ()),
        f"{macs_text(candidate.macs)} multiply-adds",
        candidate.verdict,
    ]
    label = name or ("dense" if kind == "dense" else "")
    measured = not axes.measured or (time is not None and time.median is not None)
    said = tuple(filter(None, lines))
    return Mark(kind, label, x, 100 * accuracy.value, x_bar, y_bar, predicted, measured, said, key)


def _cost(candidate: CandidateView, axes: Axes) -> tuple[float | None, tuple[float, float] | None, float | None]:
    """Place on the x axis, its bar from the 10th percentile to the one the budget is on, and the prediction.

    The mark stands at the median, because that is what the latency table predicts.
    """
    time = candidate.time
    if not axes.measured:
        return (None if candidate.macs is None else candidate.macs / 1e9), None, None
    if time is None or time.median is None:
        return (None if time is None else time.predicted), None, None
    return time.median, span(time, axes.statistic), time.predicted


def span(time: TimeView, statistic: str = "p90") -> tuple[float, float] | None:
    """From the 10th percentile to ``statistic`` (p90 where that is the median)."""
    high = time.p99 if statistic == "p99" else time.p90
    return None if time.p10 is None or high is None else (time.p10, high)


def _time_lines(time: TimeView) -> list[str]:
    lines = []
    if time.median is not None:
        lines.append(f"median {ms_text(time.median)} {time.doubt}, p90 {ms_text(time.p90)}")
    if time.predicted is not None:
        lines.append(f"predicted {ms_text(time.predicted)}")
    return lines


def _final_mark(row: FinalView, axes: Axes) -> Mark | None:
    if row.accuracy is None:
        return None
    if axes.measured:
        x = row.time.median if row.time else None
    else:
        x = None if row.macs is None else row.macs / 1e9
    if x is None:
        return None
    accuracy = row.accuracy
    bar = None if accuracy.low is None or accuracy.high is None else (100 * accuracy.low, 100 * accuracy.high)
    lines = (row.name, str(accuracy), *(_time_lines(row.time) if row.time else ()), row.note)
    x_bar = span(row.time, axes.statistic) if row.time and axes.measured else None
    return Mark(row.kind, row.name, x, 100 * accuracy.value, x_bar, bar, lines=tuple(filter(None, lines)))

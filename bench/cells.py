"""Cells of the latency table: each times one part at one token count; all of them together, round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt

from tavt_kit.core.latency_table import Curve, DropCell, LayerCells, Uneven
from tavt_kit.core.layer_cells import EVEN

__all__ = ["Cell", "collect", "round_speeds", "time_cells"]

_ROUNDS = (5, 30)
"""Least and most rounds."""

_SETTLE = 40.0, 8
"""Milliseconds, or runs, after which the caches hold what stays there: each run of a series is a little faster, a whole
pass of 6 ms by up to a third in all. A search's candidates are measured in such series."""


@dataclass(slots=True)
class Cell:
    """One clock: a part of ``layers`` layers at ``count`` tokens, timed after other cells ran and in a series.

    The first run of a series fetches its weights from memory, the last finds in the caches what stays there.
    """

    kind: str
    count: int
    kept: int
    layers: int
    run: Callable[[], float]
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)

    def ms(self, cached: float) -> float:
        """Milliseconds when the share ``cached`` of the weights is found in the caches."""
        cold, warm = median(self.cold), median(self.warm)
        return cold + cached * (min(warm, cold) - cold)

    def time(self) -> None:
        """One series: its first run, and the one after it has settled."""
        first = spent = self.run()
        runs = 1
        while spent < _SETTLE[0] and runs < _SETTLE[1]:
            spent, runs = spent + self.run(), runs + 1
        self.cold.append(first)
        self.warm.append(self.run())


def time_cells(
    cells: Sequence[Cell],
    seconds: float,
    rng: np.random.Generator,
    on_share: Callable[[float], None],
) -> None:
    """Time every cell once a round, in random order, and take out how fast the machine was in each round."""
    for cell in cells:
        cell.run()
    end, least = time.perf_counter() + seconds, _ROUNDS[0]
    for done in range(_ROUNDS[1]):
        if done >= least and time.perf_counter() >= end:
            break
        on_share(done / _ROUNDS[1])
        for place in rng.permutation(len(cells)):
            cells[place].time()
    speeds = round_speeds(np.array([cell.warm for cell in cells]))
    for cell in cells:
        cell.cold = [ms / speed for ms, speed in zip(cell.cold, speeds, strict=True)]
        cell.warm = [ms / speed for ms, speed in zip(cell.warm, speeds, strict=True)]


def round_speeds(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much longer everything took in each round than in the median round.

    Processors change their clock by tens of per cent for seconds at a time. Whatever does that to one cell does it
    to all of the same round, so it shows as a factor common to them (Tukey's median polish, one step, on a log scale).

    Args:
        times: (cells, rounds), above 0.
    """
    logs = np.log(times)
    common = np.median(logs - np.median(logs, axis=1, keepdims=True), axis=0)
    speeds: npt.NDArray[np.float64] = np.exp(common - np.median(common))
    return speeds


def collect(cells: Sequence[Cell], cached: float, width: int, uneven: Uneven | None = None) -> LayerCells:
    """Times per layer, less the cost of starting an inference (which the stem keeps).

    Args:
        cells: Timed.
        cached: Share of the weights that a whole pass finds in the caches.
        width: Features of a token.
        uneven: What single counts take more; the curves are without it.
    """
    empty = next(cell.ms(1.0) for cell in cells if cell.kind == "empty")
    times = {
        (cell.kind, cell.count, cell.kept): max(
            (cell.ms(cached) - empty) / cell.layers - _more(cell, uneven or EVEN), 1e-5
        )
        for cell in cells
    }
    return LayerCells(
        attend=_curve(times, "attend", width),
        drop=_drops(times),
        feed=_curve(times, "feed", 0),
        last=_curve(times, "last", 0) if any(kind == "last" for kind, _, _ in times) else None,
        stem_ms=next(ms for (kind, _, _), ms in times.items() if kind == "stem") + empty,
        head=_curve(times, "head", 0),
        uneven=uneven,
    )


def _more(cell: Cell, uneven: Uneven) -> float:
    """Milliseconds of a layer that are a cell's count's own."""
    if cell.kind == "drop":
        return uneven.drop(cell.count, cell.kept)
    kinds: dict[str, Callable[[float], float]] = {"attend": uneven.attend, "feed": uneven.feed, "last": uneven.last}
    return kinds[cell.kind](cell.count) if cell.kind in kinds else 0.0


_Times = Mapping[tuple[str, int, int], float]
"""(kind, tokens, kept tokens) -> milliseconds."""


def _drops(times: _Times) -> tuple[DropCell, ...]:
    found = list[DropCell]()
    for count in sorted({count for kind, count, _ in times if kind == "drop"}):
        kept = sorted(kept for kind, tokens, kept in times if (kind, tokens) == ("drop", count))
        few, many = kept[0], kept[-1]
        found.append(DropCell(count, few, times["drop", count, few], many, times["drop", count, many]))
    return tuple(found)


def _curve(times: _Times, kind: str, width: int) -> Curve:
    points = sorted((count, ms) for (name, count, _), ms in times.items() if name == kind)
    return Curve(tuple(count for count, _ in points), tuple(ms for _, ms in points), width)

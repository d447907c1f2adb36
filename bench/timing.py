"""Timing a plan on this machine, wherever its graphs come from: the cells, the whole passes, the fit of the table.

Imports neither torch nor a model: the runner of a pack does the same on an edge box.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from tavt_kit.bench.shape_penalty import find_shape_penalty
from tavt_kit.bench.table_plan import CellPlan, PartClocks, TablePlan
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import Curve, DropCell, LatencyTable, LayerCells, ShapePenalty
from tavt_kit.core.layer_cells import EVEN
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.runtimes.session import Session

OnStep = Callable[[str, float], None]
"""Told what is being done and the share of the work that is done."""

_LOOKING = 0.5
"""Share of the seconds of a table by which looking for uneven counts has ended."""

_SHARES = tuple(step / 20 for step in range(21))
"""Shares of the weights that whole passes may find in the caches. Long sequences hardly show it, short ones do:
at 2 tokens a layer is little but the reading of its weights."""


def time_plan(
    plan: TablePlan,
    target: TargetDevice,
    clocks: PartClocks,
    open_whole: Callable[[TokenSchedule], Session],
    *,
    seconds: float,
    rng: np.random.Generator,
    begin: float,
    on_step: OnStep,
) -> LatencyTable:
    """Time every cell of a plan, and fit the table to whole passes timed in the same rounds.

    Args:
        plan: What is timed.
        target: Its target, with threads resolved.
        clocks: Of the parts.
        open_whole: The whole pass under a schedule of the plan.
        seconds: Aim for the whole measurement; a slow model takes longer, because every cell runs at least 10 times.
            Whole passes but the first are left out where it is over before they are compiled.
        rng: Draws inputs and orders the runs.
        begin: ``time.perf_counter()`` when the work began.
        on_step: See ``OnStep``.
    """
    images = plan.images(rng)

    def clock(cell: CellPlan) -> Callable[[], float]:
        return clocks.clock(cell.part, plan.inputs(cell, images, rng), cell.kept or None)

    on_step("looking for uneven token counts", 0.0)
    uneven = find_shape_penalty(plan, clock, rng, begin + _LOOKING * seconds)
    cells = list[Cell]()
    for done, cell in enumerate(plan.cells):
        on_step("compiling the parts", 0.2 + 0.2 * done / len(plan.cells))
        cells.append(Cell(cell.kind, cell.count, cell.kept, cell.layers, clock(cell)))
    on_step("compiling whole passes", 0.4)
    wholes = list[Cell]()  # timed in the same rounds as the parts whose sum they are to meet
    for schedule in plan.wholes:
        if wholes and time.perf_counter() - begin > seconds:
            break
        wholes.append(Cell("whole", plan.model.layout.tokens, 0, 1, open_whole(schedule).timer(images)))
    left = max(0.85 * seconds - (time.perf_counter() - begin), 0.1 * seconds)
    time_cells(cells + wholes, left, rng, lambda share: on_step("timing the parts", 0.4 + 0.6 * share))
    found = [(schedule, whole.ms(1.0)) for schedule, whole in zip(plan.wholes, wholes, strict=False)]
    table = _fitted(plan, target, cells, uneven, found)
    on_step("done", 1.0)
    host = HostFacts.gather(accelerator_name(target))
    return replace(table, seconds=time.perf_counter() - begin, host=host)


def open_graph(graph: Any, target: TargetDevice, begin: float) -> Session:
    """A whole pass as a session.

    Args:
        graph: An ``openvino.Model``; or an ``.onnx`` file, or its bytes.
        target: Where to run.
        begin: ``time.perf_counter()`` when loading began.
    """
    if target.runtime == "onnxruntime":
        from tavt_kit.runtimes.on_onnxruntime import OnnxSession

        return OnnxSession(graph, target, begin=begin)
    from tavt_kit.runtimes.on_openvino import OpenvinoSession

    return OpenvinoSession(graph, target, begin, of_file=False)


def _fitted(
    plan: TablePlan,
    target: TargetDevice,
    cells: Sequence[Cell],
    uneven: ShapePenalty | None,
    measured: Sequence[tuple[TokenSchedule, float]],
) -> LatencyTable:
    """The calibrated table that is least wrong on what was measured: the smallest sum of squared log ratios."""
    tables = [
        LatencyTable(
            target=target,
            model=plan.model,
            cells=collect(cells, cached, plan.width, uneven),
            cached=cached,
            calibration=plan.calibration,
            dense_ms=measured[0][1],
        ).calibrated(measured)
        for cached in _SHARES
    ]
    return min(tables, key=lambda table: sum(math.log(table.predict(s) / ms) ** 2 for s, ms in measured))


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


def collect(cells: Sequence[Cell], cached: float, width: int, uneven: ShapePenalty | None = None) -> LayerCells:
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


def _more(cell: Cell, uneven: ShapePenalty) -> float:
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

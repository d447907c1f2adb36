"""Timing a plan on this machine, wherever its graphs come from: the cells, the whole passes, the fit of the table.

Imports neither torch nor a model: the runner of a pack does the same on an edge box.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tavt_kit.bench.cells import Cell, collect, time_cells
from tavt_kit.bench.clocks import PartClocks
from tavt_kit.bench.table_plan import CellPlan, TablePlan
from tavt_kit.bench.uneven import find_uneven
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import LatencyTable, Uneven
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.runtimes.session import Session

__all__ = ["OnStep", "open_graph", "time_plan"]

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
        rng: Draws inputs and orders the runs.
        begin: ``time.perf_counter()`` when the work began.
        on_step: See ``OnStep``.
    """
    images = plan.images(rng)

    def clock(cell: CellPlan) -> Callable[[], float]:
        return clocks.clock(cell.part, plan.inputs(cell, images, rng), cell.kept or None)

    on_step("looking for uneven token counts", 0.0)
    uneven = find_uneven(plan, clock, rng, begin + _LOOKING * seconds)
    cells = list[Cell]()
    for done, cell in enumerate(plan.cells):
        on_step("compiling the parts", 0.2 + 0.2 * done / len(plan.cells))
        cells.append(Cell(cell.kind, cell.count, cell.kept, cell.layers, clock(cell)))
    on_step("compiling whole passes", 0.4)
    wholes = [
        Cell("whole", plan.model.layout.tokens, 0, 1, open_whole(schedule).timer(images)) for schedule in plan.wholes
    ]  # timed in the same rounds as the parts whose sum they are to meet
    left = max(0.85 * seconds - (time.perf_counter() - begin), 0.1 * seconds)
    time_cells(cells + wholes, left, rng, lambda share: on_step("timing the parts", 0.4 + 0.6 * share))
    found = [(schedule, whole.ms(1.0)) for schedule, whole in zip(plan.wholes, wholes, strict=True)]
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
    uneven: Uneven | None,
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

"""Build a LatencyTable on the target: time the parts of a model at a grid of token counts, then calibrate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.bench.cells import Cell, Workshop, time_cells
from tavt_kit.bench.clocks import clocks_for
from tavt_kit.bench.passes import BRIEF, measure_schedules, open_schedule, random_schedules
from tavt_kit.bench.protocol import Protocol
from tavt_kit.device import TargetDevice
from tavt_kit.host import HostFacts
from tavt_kit.latency_table import HeldOut, LatencyTable
from tavt_kit.runtimes import Images, Session
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.schedule import TokenSchedule

__all__ = ["check_table", "measure_table"]

_SHARES = tuple(step / 20 for step in range(21))
"""Shares of the weights that whole passes may find in the caches. Long sequences hardly show it, short ones do:
at 2 tokens a layer is little but the reading of its weights."""


def measure_table(
    model: AdaptiveViT,
    target: TargetDevice,
    image_size: tuple[int, int],
    *,
    name: str = "model",
    seconds: float = 60.0,
    points: int = 12,
    rng: np.random.Generator | None = None,
    opened: Mapping[TokenSchedule, Session] | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> LatencyTable:
    """Time the halves of the model's layers on the target, and what that says of whole schedules.

    Args:
        model: Wrapped; its score and pool are those of the schedules to come.
        target: torch or OpenVINO.
        image_size: (H, W) that the model was wrapped for.
        name: Of the model, for people.
        seconds: Aim for the whole measurement; a slow model takes longer, because every cell runs at least 10 times.
        points: Token counts at which each half is timed.
        rng: Orders the runs; a generator seeded with 0 if not given.
        opened: Sessions from ``open_schedule`` that are there already, such as the dense one.
        on_step: Told what is being done and the share of the work that is done.

    Raises:
        TargetError: The target is absent or does not run live models.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    on_step = _silent if on_step is None else on_step
    target, begin = target.resolved(), time.perf_counter()
    shop = Workshop(clocks_for(model, target), target, image_size, points, rng)
    cells = shop.prepare(lambda share: on_step("compiling the parts", 0.4 * share))
    schedules = _calibration(model)
    known = opened or {}
    wholes = [
        _whole(known.get(schedule) or open_schedule(model, target, image_size, schedule), model.tokens, shop.image)
        for schedule in schedules
    ]
    left = max(0.85 * seconds - (time.perf_counter() - begin), 0.1 * seconds)
    time_cells(cells + wholes, left, rng, lambda share: on_step("timing the parts", 0.4 + 0.6 * share))
    found = [(schedule, whole.ms(1.0)) for schedule, whole in zip(schedules, wholes, strict=True)]
    shapes = (target, name, model.tokens, model.layers, model.prefix, model.score)
    taps = model.backbone.taps
    tables = (LatencyTable(*shapes, shop.collect(cells, cached), cached=cached, taps=taps) for cached in _SHARES)
    table = _best_fit(tables, found)
    on_step("done", 1.0)
    host = HostFacts.gather(accelerator_name(target))
    return replace(table, seconds=time.perf_counter() - begin, host=host)


def check_table(
    table: LatencyTable,
    model: AdaptiveViT,
    image_size: tuple[int, int],
    *,
    count: int = 10,
    protocol: Protocol | None = None,
    rng: np.random.Generator | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> LatencyTable:
    """Predict ``count`` random schedules, measure them end to end, and keep both beside the table.

    The schedules are measured four at a time beside the dense model: few models are in memory at once, and the dense
    model shows how fast the machine is just then, compared with when the table was made.
    """
    rng = np.random.default_rng(1) if rng is None else rng
    schedules = random_schedules(model.tokens, model.layers, model.prefix, count, rng)
    dense, found = model.dense_schedule, list[HeldOut]()
    opened = {dense: open_schedule(model, table.target, image_size, dense)}
    for start in range(0, count, 4):
        if on_step is not None:
            on_step("timing held-out schedules", start / count)
        some = schedules[start : start + 4]
        schedules_now, how = [dense, *some], protocol or BRIEF
        anchor, *runs = measure_schedules(model, table.target, image_size, schedules_now, how, rng, opened=opened)
        drift = anchor.median / table.predict(dense)
        for schedule, run in zip(some, runs, strict=True):
            found.append(HeldOut(schedule, table.predict(schedule), run.median, run.steady, drift))
    return table.tested(found)


def _whole(session: Session, tokens: int, image: Images) -> Cell:
    """A whole pass as a cell: timed in the same rounds as the parts whose sum it is to meet."""
    return Cell("whole", tokens, 0, 1, session.timer(image))


def _best_fit(tables: Iterable[LatencyTable], measured: Sequence[tuple[TokenSchedule, float]]) -> LatencyTable:
    """The calibrated table that is least wrong on what was measured: the smallest sum of squared log ratios."""
    fitted = [table.calibrated(measured) for table in tables]
    return min(fitted, key=lambda table: sum(math.log(table.predict(s) / ms) ** 2 for s, ms in measured))


def _calibration(model: AdaptiveViT) -> list[TokenSchedule]:
    """Four whole passes: nothing dropped, a mild and a steep taper, and three big steps."""
    size = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    kept, counts = model.tokens, []
    for layer in range(model.layers):
        if layer in {round(model.layers * share) for share in (0.25, 0.5, 0.75)}:
            kept = max(math.ceil(0.7 * kept), model.prefix + 1, 2)
        counts.append(kept)
    mild, steep = (TokenSchedule.taper(ratio=ratio, **size) for ratio in (0.15, 0.4))
    return [model.dense_schedule, mild, TokenSchedule(tuple(counts)), steep]


def _silent(step: str, share: float) -> None:
    """Nobody watches."""

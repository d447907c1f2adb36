"""Build a LatencyTable on the target: time the parts of a model at a grid of token counts, then calibrate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np

from tavt_kit.bench.clocks import OnnxClocks, OpenvinoClocks, PartClocks, TorchClocks
from tavt_kit.bench.graphs import Graphs, calibration_of
from tavt_kit.bench.passes import BRIEF, measure_schedules, open_schedule, random_schedules
from tavt_kit.bench.protocol import Protocol
from tavt_kit.bench.table_plan import TablePlan
from tavt_kit.bench.timing import OnStep, time_plan
from tavt_kit.bench.workshop import Workshop
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import HeldOut, LatencyTable
from tavt_kit.core.measurement import paired_ratio
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import Session, check_available
from tavt_kit.runtimes.available import refuse_modes

__all__ = ["check_table", "measure_table", "plan_table"]


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
    on_step: OnStep | None = None,
) -> LatencyTable:
    """Time the halves of the model's layers on the target, and what that says of whole schedules.

    Args:
        model: Wrapped; its score and pool are those of the schedules to come.
        target: Where; in int8 the parts are calibrated on random data, which serves for times only.
        image_size: (H, W) that the model was wrapped for.
        name: Of the model, for people.
        seconds: Aim for the whole measurement; a slow model takes longer, because every cell runs at least 10 times.
        points: Token counts at which each half is timed.
        rng: Orders the runs; a generator seeded with 0 if not given.
        opened: Sessions from ``open_schedule`` that are there already, such as the dense one.
        on_step: Told what is being done and the share of the work that is done.

    Raises:
        TargetError: The target is absent.
        ExportError: A part cannot be converted for it.
    """
    check_available(target)
    target, begin, known = target.resolved(), time.perf_counter(), opened or {}
    shop, plan = plan_table(model, target, name=name, points=points)
    return time_plan(
        plan,
        target,
        _clocks(shop, plan),
        lambda schedule: known.get(schedule) or open_schedule(model, target, image_size, schedule),
        seconds=seconds,
        rng=np.random.default_rng(0) if rng is None else rng,
        begin=begin,
        on_step=_silent if on_step is None else on_step,
    )


def plan_table(model: AdaptiveViT, target: TargetDevice, *, name: str, points: int = 12) -> tuple[Workshop, TablePlan]:
    """The parts of a model and what is to be timed of them; arguments as of ``measure_table``."""
    refuse_modes(target)
    shop = Workshop(model, target, points)
    return shop, shop.plan(name, tuple(_calibration(model)), calibration_of(target))


def _clocks(shop: Workshop, plan: TablePlan) -> PartClocks:
    if plan.target.runtime == "torch":
        return TorchClocks(shop.parts, plan.target)
    kind = OpenvinoClocks if plan.target.runtime == "openvino" else OnnxClocks
    return kind(Graphs(shop.parts, plan), plan.target)


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
    model shows how fast the machine is just then, compared with when the table was made (the drift).
    """
    rng = np.random.default_rng(1) if rng is None else rng
    schedules = random_schedules(model.layout, count, rng)
    dense, found, how = model.dense_schedule, list[HeldOut](), protocol or BRIEF
    # Against its own time, not its prediction, whose error is the table's and no drift.
    then = table.dense_ms or table.predict(dense)
    opened = {dense: open_schedule(model, table.target, image_size, dense)}
    for start in range(0, count, 4):
        if on_step is not None:
            on_step("timing held-out schedules", start / count)
        some = schedules[start : start + 4]
        anchor, *runs = measure_schedules(model, table.target, image_size, [dense, *some], how, rng, opened=opened)
        for schedule, run in zip(some, runs, strict=True):
            # Round by round: a machine that changes its speed between two rounds changes medians, and no such ratio.
            ratio = paired_ratio(run, anchor)
            steady, drift = ratio.relative_half_width <= how.half_width, run.median / (ratio.value * then)
            found.append(HeldOut(schedule, table.predict(schedule), run.median, steady, drift))
    return table.tested(found)


def _calibration(model: AdaptiveViT) -> list[TokenSchedule]:
    """Four whole passes: nothing dropped, a mild and a steep taper, and three big steps."""
    kept, counts = model.tokens, []
    for layer in range(model.layers):
        if layer in {round(model.layers * share) for share in (0.25, 0.5, 0.75)}:
            kept = max(math.ceil(0.7 * kept), model.prefix + 1, 2)
        counts.append(kept)
    mild, steep = (TokenSchedule.taper(model.layout, ratio) for ratio in (0.15, 0.4))
    return [model.dense_schedule, mild, TokenSchedule(tuple(counts)), steep]


def _silent(step: str, share: float) -> None:
    """Nobody watches."""

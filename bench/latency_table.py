"""Build a LatencyTable on the target, test it, and time whole passes under several schedules against one another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tavt_kit.bench.parts import LayerParts, WholeGraphs, part_graphs, whole_graph
from tavt_kit.bench.protocol import BRIEF, Protocol, bench, random_images
from tavt_kit.bench.timing import OnStep, time_plan
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import HeldOut, LatencyTable, measure_quantile_ratios
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement, paired_ratio
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import AdaptiveViT, LeanViT
from tavt_kit.runtimes import Images, Session, check_available, runtime_of
from tavt_kit.runtimes.available import refuse_modes


def measure_table(
    model: AdaptiveViT,
    target: TargetDevice,
    *,
    name: str = "model",
    seconds: float = 60.0,
    points: int = 12,
    rng: np.random.Generator | None = None,
    opened: Mapping[TokenSchedule, Session] | None = None,
    on_step: OnStep | None = None,
    longest: float = math.inf,
    say: Callable[[str], None] = lambda sentence: None,
) -> LatencyTable:
    """Time the halves of the model's layers on the target, and what that says of whole schedules.

    Args:
        model: Wrapped; its score and pool are those of the schedules to come.
        target: In int8 the parts are calibrated on random data, which serves for times only.
        seconds: Aim for the whole measurement; a slow model takes longer, because every cell runs at least 10 times.
        points: Token counts at which each half is timed.
        opened: Sessions from ``open_schedule`` that are there already, such as the dense one.
        longest: Seconds after which parts are compiled at the fewest and the most tokens alone.
        say: Told what was left out.

    Raises:
        TargetError: The target is absent.
        ExportError: A part cannot be converted for it.
    """
    check_available(target)
    refuse_modes(target)
    target, begin, known = target.resolved(), time.perf_counter(), opened or {}
    parts = LayerParts(model, target, points)
    plan, runtime = parts.plan(name), parts.runtime
    part = parts.parts.__getitem__ if runtime.takes == "modules" else part_graphs(parts.parts, plan)
    return time_plan(
        plan,
        runtime.part_clocks(part, target),
        lambda schedule: known.get(schedule) or open_schedule(model, target, schedule),
        seconds=seconds,
        rng=np.random.default_rng(0) if rng is None else rng,
        begin=begin,
        on_step=on_step or (lambda step, share: None),
        longest=longest,
        say=say,
    )


def check_table(
    table: LatencyTable,
    model: AdaptiveViT,
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
    dense, protocol = model.dense_schedule, protocol or BRIEF
    held_out, measured = list[HeldOut](), list[Measurement]()
    # Against its own time, not its prediction, whose error is the table's and no drift.
    then = table.dense_ms or table.predict(dense)
    opened = {dense: open_schedule(model, table.target, dense)}
    for start in range(0, count, 4):
        if on_step is not None:
            on_step("timing held-out schedules", start / count)
        some = schedules[start : start + 4]
        anchor, *runs = measure_schedules(model, table.target, [dense, *some], protocol, rng, opened=opened)
        for schedule, run in zip(some, runs, strict=True):
            # Round by round: a machine that changes its speed between two rounds changes medians, and no such ratio.
            ratio = paired_ratio(run, anchor)
            steady, drift = ratio.relative_half_width <= protocol.half_width, run.median / (ratio.value * then)
            held_out.append(HeldOut(schedule, table.predict(schedule), run.median, steady, drift))
        measured += [anchor, *runs]
    return replace(table, held_out=tuple(held_out), quantile_ratios=measure_quantile_ratios(measured))


def measure_schedules(
    model: AdaptiveViT,
    target: TargetDevice,
    schedules: Sequence[TokenSchedule],
    protocol: Protocol,
    rng: np.random.Generator,
    *,
    opened: Mapping[TokenSchedule, Session] | None = None,
    beside: Mapping[str, tuple[Session, Images]] | None = None,
) -> list[Measurement]:
    """Whole passes under each schedule by the lean path, on random images, timed against one another.

    Args:
        schedules: What to measure; all are open at once.
        opened: Sessions of some of the schedules from ``open_schedule``, so that converting them costs no time again.
        beside: Sessions of other models with their images, by name, timed in the same rounds.

    Returns:
        One measurement for each schedule, then one for each of ``beside``.
    """
    images = random_images((target.batch, 3, *model.backbone.image_size), rng)
    sessions = {
        str(index): (opened or {}).get(schedule) or open_schedule(model, target, schedule)
        for index, schedule in enumerate(schedules)
    }
    inputs = dict.fromkeys(sessions, images)
    for name, (session, own) in (beside or {}).items():
        sessions[name], inputs[name] = session, own
    return list(bench(sessions, inputs, protocol, rng=rng).values())


def open_schedule(
    model: AdaptiveViT, target: TargetDevice, schedule: TokenSchedule, known: WholeGraphs | None = None
) -> Session:
    """The model under one schedule by the lean path, on the target; int8 is calibrated for times, not for answers.

    Raises:
        TargetError: The target is not on this machine.
        ExportError: The model cannot be converted or quantized for it.
    """
    refuse_modes(target)
    check_available(target)
    runtime, begin = runtime_of(target.runtime), time.perf_counter()
    in_torch = runtime.takes == "modules"
    lean = LeanViT(model, schedule) if in_torch else whole_graph(model, schedule, target, known)
    return runtime.open(lean, target, begin, (target.batch, 3, *model.backbone.image_size))


def random_schedules(layout: TokenLayout, count: int, rng: np.random.Generator) -> list[TokenSchedule]:
    """Schedules from mild to steep: some or all layers drop from 5 % to, at the steepest, 60 % of their tokens."""
    schedules = []
    for _ in range(count):
        often, most, kept, counts = rng.uniform(0.15, 1.0), rng.uniform(0.1, 0.6), layout.tokens, []
        for _ in range(layout.layers):
            if rng.random() < often:
                kept = max(math.ceil(kept * (1 - rng.uniform(0.05, most))), layout.least)
            counts.append(kept)
        schedules.append(TokenSchedule(tuple(counts)))
    return schedules

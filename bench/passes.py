"""Whole passes of a model under several schedules, timed against one another on the target."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tavt_kit.bench.graphs import whole_graph
from tavt_kit.bench.protocol import BRIEF as BRIEF
from tavt_kit.bench.protocol import Protocol, bench, random_images
from tavt_kit.bench.timing import open_graph
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.wrap import AdaptiveViT, LeanViT
from tavt_kit.runtimes import Images, Session, check_available, open_module
from tavt_kit.runtimes.available import refuse_modes

__all__ = ["BRIEF", "measure_schedules", "open_schedule", "random_schedules"]


def measure_schedules(
    model: AdaptiveViT,
    target: TargetDevice,
    image_size: tuple[int, int],
    schedules: Sequence[TokenSchedule],
    protocol: Protocol,
    rng: np.random.Generator,
    *,
    images: Images | None = None,
    opened: Mapping[TokenSchedule, Session] | None = None,
    beside: Mapping[str, tuple[Session, Images]] | None = None,
    on_round: Callable[[float, Sequence[str]], None] | None = None,
) -> list[Measurement]:
    """Whole passes under each schedule by the lean path, timed against one another.

    Args:
        model: Wrapped.
        target: Where to run.
        image_size: (H, W) that the model was wrapped for.
        schedules: What to measure; all are open at once.
        protocol: How long and how surely.
        rng: Orders the runs, and draws the images where none are given.
        images: (B, 3, H, W) of the target's batch; random ones by default.
        opened: Sessions of some of the schedules from ``open_schedule``, so that converting them costs no time again.
        beside: Sessions of other models with their images, by name, timed in the same rounds.
        on_round: As for ``bench``; the names are the places of the schedules, and those of ``beside``.

    Returns:
        One measurement for each schedule, then one for each of ``beside``.
    """
    shape = (target.batch, 3, *image_size)
    images = random_images(shape, rng) if images is None else images
    known = opened or {}
    sessions = {
        str(place): known[schedule] if schedule in known else open_schedule(model, target, image_size, schedule)
        for place, schedule in enumerate(schedules)
    }
    others = beside or {}
    inputs = dict.fromkeys(sessions, images) | {name: own for name, (_, own) in others.items()}
    everything = sessions | {name: session for name, (session, _) in others.items()}
    return list(bench(everything, inputs, protocol, rng=rng, on_round=on_round).values())


def open_schedule(
    model: AdaptiveViT, target: TargetDevice, image_size: tuple[int, int], schedule: TokenSchedule
) -> Session:
    """The model under one schedule by the lean path, on the target; int8 is calibrated for times, not for answers.

    Raises:
        TargetError: The target is not on this machine.
        ExportError: The model cannot be converted or quantized for it.
    """
    refuse_modes(target)
    if target.runtime == "torch":
        return open_module(LeanViT(model, schedule), target, (target.batch, 3, *image_size))
    check_available(target)
    begin = time.perf_counter()
    return open_graph(whole_graph(model, schedule, target), target, begin)


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

"""Build a LatencyTable on the target: time the parts of a model at a grid of token counts, then calibrate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT, LeanViT
from tavt_kit.bench.clocks import Array, PartClocks, clocks_for
from tavt_kit.bench.parts import AttendPart, DropPart, FeedPart, HeadPart, LastPart, Part, StemPart
from tavt_kit.bench.protocol import Protocol, bench, random_images
from tavt_kit.device import TargetDevice
from tavt_kit.host import HostFacts
from tavt_kit.latency_table import Curve, DropCell, HeldOut, LatencyTable, LayerCells
from tavt_kit.measurement import Measurement
from tavt_kit.runtimes import open_module
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.schedule import TokenSchedule

__all__ = ["measure_schedules", "measure_table", "random_schedules", "test_table", "token_grid"]

END_TO_END = Protocol(min_seconds=1.0, max_seconds=6.0, min_runs=15, warmup_seconds=1.0)
"""Whole passes for calibration: sure to about 1 % on a quiet machine, and short."""

_ROUNDS = (7, 40)
"""Least and most runs of a cell."""


def measure_table(
    model: AdaptiveViT,
    target: TargetDevice,
    image_size: tuple[int, int],
    *,
    name: str = "model",
    seconds: float = 60.0,
    points: int = 12,
    rng: np.random.Generator | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> LatencyTable:
    """Time the halves of the model's layers on the target, and what that says of whole schedules.

    Args:
        model: Wrapped; its score and pool are those of the schedules to come.
        target: torch or OpenVINO.
        image_size: (H, W) that the model was wrapped for.
        name: Of the model, for people.
        seconds: Aim for the whole measurement; a slow model takes longer, because every cell runs 7 times.
        points: Token counts at which each half is timed.
        rng: Orders the runs; a generator seeded with 0 if not given.
        on_step: Told what is being done and the share of the work that is done.

    Raises:
        TargetError: The target is absent or does not run live models.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    on_step = _silent if on_step is None else on_step
    target, begin = target.resolved(), time.perf_counter()
    shop = _Workshop(clocks_for(model, target), target, image_size, points, rng)
    cells = shop.prepare(lambda share: on_step("compiling the parts", 0.4 * share))
    left = max(0.6 * seconds - (time.perf_counter() - begin), 0.1 * seconds)
    _time_cells(
        cells, left, rng, shop.is_cached, lambda share: on_step("timing the parts", 0.4 + 0.3 * share)
    )
    table = LatencyTable(
        target, name, model.tokens, model.layers, model.prefix, model.score, shop.collect(cells)
    )
    on_step("timing whole passes", 0.7)
    runs = measure_schedules(model, target, image_size, _calibration(model), END_TO_END, rng)
    table = table.calibrated((schedule, run.median) for schedule, run in runs)
    on_step("done", 1.0)
    host = HostFacts.gather(accelerator_name(target))
    return replace(table, seconds=time.perf_counter() - begin, host=host)


def measure_schedules(
    model: AdaptiveViT,
    target: TargetDevice,
    image_size: tuple[int, int],
    schedules: Sequence[TokenSchedule],
    protocol: Protocol,
    rng: np.random.Generator,
) -> list[tuple[TokenSchedule, Measurement]]:
    """Whole passes under each schedule by the lean path, interleaved, on random images."""
    shape = (target.batch, 3, *image_size)
    images = random_images(shape, rng)
    sessions = {
        str(place): open_module(LeanViT(model, schedule), target, shape)
        for place, schedule in enumerate(schedules)
    }
    runs = bench(sessions, images, protocol, rng=rng)
    return [(schedule, runs[str(place)]) for place, schedule in enumerate(schedules)]


def test_table(
    table: LatencyTable,
    model: AdaptiveViT,
    image_size: tuple[int, int],
    *,
    count: int = 10,
    protocol: Protocol = END_TO_END,
    rng: np.random.Generator | None = None,
    on_step: Callable[[str, float], None] | None = None,
) -> LatencyTable:
    """Predict ``count`` random schedules, measure them end to end, and keep both beside the table.

    The schedules are measured five at a time against one another, so that few models are in memory at once.
    """
    rng = np.random.default_rng(1) if rng is None else rng
    schedules = random_schedules(model.tokens, model.layers, model.prefix, count, rng)
    found = list[HeldOut]()
    for start in range(0, count, 5):
        if on_step is not None:
            on_step("timing held-out schedules", start / count)
        for schedule, run in measure_schedules(
            model, table.target, image_size, schedules[start : start + 5], protocol, rng
        ):
            found.append(HeldOut(schedule, table.predict(schedule), run.median, run.steady))
    return table.tested(found)


test_table.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def random_schedules(
    tokens: int, layers: int, prefix: int, count: int, rng: np.random.Generator
) -> list[TokenSchedule]:
    """Schedules that drop 5 to 40 % in some layers (from few of them to all) and nothing in the others."""
    schedules = []
    for _ in range(count):
        often, kept, counts = rng.uniform(0.15, 1.0), tokens, []
        for _ in range(layers):
            if rng.random() < often:
                kept = max(math.ceil(kept * (1 - rng.uniform(0.05, 0.4))), prefix + 1, 2)
            counts.append(kept)
        schedules.append(TokenSchedule(tuple(counts)))
    return schedules


def token_grid(tokens: int, least: int, points: int) -> tuple[int, ...]:
    """Token counts from ``least`` to ``tokens``, in equal ratios, ascending."""
    if tokens <= least:
        return (tokens,)
    ratio = (tokens / least) ** (1 / (points - 1))
    return tuple(sorted({tokens, *(round(least * ratio**step) for step in range(points - 1))}))


@dataclass(slots=True)
class _Cell:
    """One clock: a part of ``layers`` layers at ``count`` tokens."""

    kind: str
    count: int
    kept: int
    layers: int
    run: Callable[[], float]
    times: list[float] = field(default_factory=list)


class _Workshop:
    """Makes the cells of one model on one target, and the table from their times."""

    def __init__(
        self,
        clocks: PartClocks,
        target: TargetDevice,
        image_size: tuple[int, int],
        points: int,
        rng: np.random.Generator,
    ) -> None:
        self.clocks, self.model, self.batch, self.rng = clocks, clocks.model, target.batch, rng
        self.image = random_images((target.batch, 3, *image_size), rng)
        with torch.inference_mode():
            parameter = next(self.model.parameters())
            state = self.model.start(torch.from_numpy(self.image).to(parameter.device, parameter.dtype))
        self.notes: Mapping[str, Any] = state.notes
        self.width = state.tokens.shape[-1]
        size = parameter.element_size() if target.precision != "bf16" else 2
        self.is_cached = sum(p.numel() for p in self.model.parameters()) * size < _cache_bytes()
        self.layers = self._chain(4 * self.width**2 * size)
        least = max(2, self.model.prefix + 1)
        self.grid = token_grid(self.model.tokens, least, points)
        if self.notes:  # position terms cost something only once tokens were dropped
            self.grid = tuple(sorted({*self.grid, self.model.tokens - 1}))
        self.least = least

    def _chain(self, attention_bytes: int) -> tuple[int, ...]:
        """Enough layers, evenly spaced, that their weights cannot stay in the caches from one run to the next."""
        everything = self.model.layers
        wanted = 4 if self.clocks.own_weights else max(4, math.ceil(_cache_bytes() / attention_bytes))
        count = min(wanted, everything)
        return tuple(step * everything // count for step in range(count))

    def prepare(self, on_share: Callable[[float], None]) -> list[_Cell]:
        plan = [*self._plan()]
        cells = []
        for done, (kind, part, count, kept) in enumerate(plan):
            on_share(done / len(plan))
            run = self.clocks.clock(part, self._inputs(kind, part, count), kept or None)
            cells.append(_Cell(kind, count, kept, max(1, len(part.layers)), run))
        return cells

    def _plan(self) -> list[tuple[str, Part, int, int]]:
        """(kind, part, tokens, kept tokens or 0) of every cell."""
        pooled = self.model.backbone.head_rows is None
        sparse = self.grid[::-1][::3]
        whole, dropped = (self._parts(placed) for placed in (False, True))
        plan: list[tuple[str, Part, int, int]] = [
            ("stem", whole["stem"], self.model.tokens, 0),
            ("empty", whole["empty"], 1, 0),
        ]
        for count in self.grid:
            parts = whole if count == self.model.tokens else dropped
            plan += [("attend", parts["attend"], count, 0), ("feed", whole["feed"], count, 0)]
            for kept in self._kept(count):
                plan.append(("drop", parts["drop"], count, kept))
        for count in sparse:
            parts = whole if count == self.model.tokens else dropped
            plan.append(("head", whole["head"], count, 0) if pooled else ("last", parts["last"], count, 0))
        if not pooled:
            plan.append(("head", whole["head"], self.model.backbone.head_rows or 1, 0))
        return plan

    def _parts(self, placed: bool) -> dict[str, Part]:
        kinds: dict[str, type[Part]] = {
            "attend": AttendPart,
            "drop": DropPart,
            "feed": FeedPart,
            "last": LastPart,
        }
        parts = {name: kind(self.model, self.layers, self.notes, placed) for name, kind in kinds.items()}
        single: dict[str, type[Part]] = {"stem": StemPart, "head": HeadPart, "empty": _EmptyPart}
        return parts | {name: kind(self.model, (), self.notes, placed) for name, kind in single.items()}

    def _kept(self, count: int) -> tuple[int, ...]:
        """Half and nine tenths of the tokens, as far as such drops exist."""
        choices = {max(round(count * share), self.least) for share in (0.5, 0.9)}
        return tuple(sorted(kept for kept in choices if kept < count))

    def _inputs(self, kind: str, part: Part, count: int) -> list[Array]:
        if kind == "stem":
            return [self.image]
        tokens = self.rng.standard_normal((self.batch, count, self.width), dtype=np.float32)
        inputs: list[Array] = [tokens] * (len(part.layers) if kind in ("drop", "last") else 1)
        if self.notes and part.placed and kind in ("attend", "drop", "last"):
            inputs.append(np.tile(np.arange(count, dtype=np.int64), (self.batch, 1)))
        return inputs

    def collect(self, cells: list[_Cell]) -> LayerCells:
        """Median times, less the cost of starting an inference (which the stem keeps), per layer."""
        empty = next(median(cell.times) for cell in cells if cell.kind == "empty")
        times = {
            (cell.kind, cell.count, cell.kept): max(median(cell.times) - empty, 1e-4) / cell.layers
            for cell in cells
        }
        drops = []
        for count in self.grid:
            kept = self._kept(count)
            if kept:
                few, many = kept[0], kept[-1]
                drops.append(
                    DropCell(count, few, times["drop", count, few], many, times["drop", count, many])
                )
        return LayerCells(
            attend=_curve(times, "attend", self.width),
            drop=tuple(drops),
            feed=_curve(times, "feed", 0),
            last=None if self.model.backbone.head_rows is None else _curve(times, "last", 0),
            stem_ms=times["stem", self.model.tokens, 0] + empty,
            head=_curve(times, "head", 0),
        )


class _EmptyPart(Part):
    """Next to nothing: what remains is the cost of starting an inference."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + 1


def _time_cells(
    cells: list[_Cell],
    seconds: float,
    rng: np.random.Generator,
    is_cached: bool,
    on_share: Callable[[float], None],
) -> None:
    """Run every cell once a round, in random order, so that slow noise meets all alike."""
    for cell in cells:
        cell.run()
    end, least = time.perf_counter() + seconds, _ROUNDS[0]
    for done in range(_ROUNDS[1]):
        if done >= least and time.perf_counter() >= end:
            break
        on_share(done / _ROUNDS[1])
        for place in rng.permutation(len(cells)):
            if is_cached:  # a model that fits the caches finds its weights there, so the parts should as well
                cells[place].run()
            cells[place].times.append(cells[place].run())


def _calibration(model: AdaptiveViT) -> list[TokenSchedule]:
    """Three whole passes: nothing dropped, a taper, and three big steps."""
    size = {"tokens": model.tokens, "layers": model.layers, "prefix": model.prefix}
    kept, counts = model.tokens, []
    for layer in range(model.layers):
        if layer in {round(model.layers * share) for share in (0.25, 0.5, 0.75)}:
            kept = max(math.ceil(0.7 * kept), model.prefix + 1, 2)
        counts.append(kept)
    return [model.dense_schedule, TokenSchedule.taper(ratio=0.15, **size), TokenSchedule(tuple(counts))]


def _curve(times: Mapping[tuple[str, int, int], float], kind: str, width: int) -> Curve:
    points = sorted((count, ms) for (name, count, _), ms in times.items() if name == kind)
    return Curve(tuple(count for count, _ in points), tuple(ms for _, ms in points), width)


def _cache_bytes() -> int:
    """The last-level cache of CPU 0; 32 MiB where the machine does not say."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii").strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 32 * 2**20


def _silent(step: str, share: float) -> None:
    """Nobody watches."""

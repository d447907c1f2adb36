"""Cells of the latency table: which parts are timed at which token counts, and the timing itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tavt_kit.bench.clocks import Array, PartClocks
from tavt_kit.bench.parts import AttendPart, DropPart, FeedPart, HeadPart, LastPart, Part, StemPart
from tavt_kit.bench.protocol import random_images
from tavt_kit.device import TargetDevice
from tavt_kit.latency_table import Curve, DropCell, LayerCells

__all__ = ["Cell", "Workshop", "round_speeds", "time_cells", "token_grid"]

_OWN_BYTES = 40 * 2**20
"""Attention weights that one clock may hold a copy of; about 40 clocks do."""

_ROUNDS = (5, 30)
"""Least and most pairs of runs of a cell."""


@dataclass(slots=True)
class Cell:
    """One clock: a part of ``layers`` layers at ``count`` tokens, timed after other cells ran and once more.

    The first run of each pair fetches its weights from memory, the second finds in the caches what fits there.
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


class Workshop:
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
        self.layers = self._chain(4 * self.width**2 * size)
        least = max(2, self.model.prefix + 1)
        self.grid = token_grid(self.model.tokens, least, points)
        if self.notes:  # position terms cost something only once tokens were dropped
            self.grid = tuple(sorted({*self.grid, self.model.tokens - 1}))
        self.drop_grid = tuple(count for count in self.grid if count in {*self.grid[-2:], *self.grid[::-2]})
        self.least = least

    def _chain(self, attention_bytes: int) -> tuple[int, ...]:
        """Enough layers, evenly spaced, that their weights cannot stay in the caches from one run to the next.

        Where every clock has its own copy the many clocks see to that, and fewer layers of a wide model save memory.
        """
        everything = self.model.backbone.alike
        if self.clocks.own_weights:
            wanted = min(4, max(2, _OWN_BYTES // attention_bytes))
        else:
            wanted = max(4, math.ceil(_cache_bytes() / attention_bytes))
        count = min(wanted, everything)
        return tuple(step * everything // count for step in range(count))

    def prepare(self, on_share: Callable[[float], None]) -> list[Cell]:
        plan = [*self._plan()]
        cells = []
        for done, (kind, part, count, kept) in enumerate(plan):
            on_share(done / len(plan))
            run = self.clocks.clock(part, self._inputs(kind, part, count), kept or None)
            cells.append(Cell(kind, count, kept, max(1, len(part.layers)), run))
        return cells

    def _plan(self) -> list[tuple[str, Part, int, int]]:
        """(kind, part, tokens, kept tokens or 0) of every cell."""
        pooled = self.model.backbone.head_rows is None
        sparse = self.grid[::-1][::3]
        whole = self._parts(placed=False)
        # Where no position term follows the tokens, converters take their places out of the graph.
        dropped = self._parts(placed=True) if self.notes or not self.clocks.own_weights else whole
        plan: list[tuple[str, Part, int, int]] = [
            ("stem", whole["stem"], self.model.tokens, 0),
            ("empty", whole["empty"], 1, 0),
        ]
        for count in self.grid:
            parts = whole if count == self.model.tokens else dropped
            plan += [("attend", parts["attend"], count, 0), ("feed", whole["feed"], count, 0)]
            if count in self.drop_grid:
                plan += [("drop", parts["drop"], count, kept) for kept in self._kept(count)]
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
        alike, last = self.model.backbone.alike, self.model.layers - 1
        layers = {"last": self.layers if last < alike else (last,)}
        parts = {
            name: kind(self.model, layers.get(name, self.layers), self.notes, placed) for name, kind in kinds.items()
        }
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

    def collect(self, cells: list[Cell], cached: float) -> LayerCells:
        """Times per layer, less the cost of starting an inference (which the stem keeps).

        Args:
            cells: Timed.
            cached: Share of the weights that a whole pass finds in the caches.
        """
        empty = next(cell.ms(1.0) for cell in cells if cell.kind == "empty")
        times = {(cell.kind, cell.count, cell.kept): max(cell.ms(cached) - empty, 1e-4) / cell.layers for cell in cells}
        drops = []
        for count in self.drop_grid:
            kept = self._kept(count)
            if kept:
                few, many = kept[0], kept[-1]
                drops.append(DropCell(count, few, times["drop", count, few], many, times["drop", count, many]))
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


def time_cells(
    cells: list[Cell],
    seconds: float,
    rng: np.random.Generator,
    on_share: Callable[[float], None],
) -> None:
    """Run every cell twice a round, in random order, and take out how fast the machine was in each round."""
    for cell in cells:
        cell.run()
    end, least = time.perf_counter() + seconds, _ROUNDS[0]
    for done in range(_ROUNDS[1]):
        if done >= least and time.perf_counter() >= end:
            break
        on_share(done / _ROUNDS[1])
        for place in rng.permutation(len(cells)):
            cells[place].cold.append(cells[place].run())
            cells[place].warm.append(cells[place].run())
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


def token_grid(tokens: int, least: int, points: int) -> tuple[int, ...]:
    """Token counts from ``least`` to ``tokens``, in equal ratios, ascending."""
    if tokens <= least:
        return (tokens,)
    ratio = (tokens / least) ** (1 / (points - 1))
    return tuple(sorted({tokens, *(round(least * ratio**step) for step in range(points - 1))}))


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

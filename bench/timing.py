"""A latency table's plan, its clocks and its timing: the cells, the whole passes, single counts that take longer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import EVEN, Curve, DropCell, LatencyTable, LayerCells, ShapePenalty, TimedModel
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.runtimes.session import Clock, PartClocks, Session

OnStep = Callable[[str, float], None]
"""Told what is being done and the share of the work that is done."""

Array = npt.NDArray[Any]
"""Tokens (B, n, D) or images (B, 3, H, W) as float32, or places (B, n) as int64."""

_LOOKING = 0.5  # Share of the seconds of a table by which looking for uneven counts has ended
# Shares of the weights that whole passes may find in the caches. Long sequences hardly show it, short ones do: at 2
# tokens a layer is little but the reading of its weights.
_SHARES = tuple(step / 20 for step in range(21))
_ROUNDS = (5, 30)  # Least and most rounds
# Milliseconds, or runs, after which the caches hold what stays there: each run of a series is a little faster, a
# whole pass of 6 ms by up to a third in all. A search's candidates are measured in such series.
_SETTLE = 40.0, 8


@dataclass(frozen=True, slots=True)
class CellPlan:
    """One time of the table, of a part that several cells share.

    Args:
        kind: ``stem attend drop feed last head``, or ``empty`` for the cost of starting an inference.
        kept: Tokens that stay; 0 where the part does not drop.
        inputs: Inputs in order: ``images``, ``tokens`` or ``places``.
    """

    kind: str
    part: str
    count: int
    kept: int
    layers: int
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TablePlan:
    """All times of one table, and what the table will say of the model.

    Args:
        wholes: The schedules of the whole passes that the sums are to meet; the first one is dense.
        all_rows: Share of attention's products with weights that is of all tokens, in a layer that drops and in the
            last one before a head that reads leading tokens only.
    """

    target: TargetDevice
    model: TimedModel
    width: int
    cells: tuple[CellPlan, ...]
    wholes: tuple[TokenSchedule, ...]
    calibration: str | None = None
    all_rows: tuple[float, float] = (0.75, 0.5)

    def __post_init__(self) -> None:
        is_token_pooled = any(cell.kind == "last" for cell in self.cells)  # as the table itself will know it
        object.__setattr__(self, "model", self.model.with_pooling(is_token_pooled))

    def images(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """(B, 3, H, W) random images."""
        assert self.model.image_size is not None  # only tables of older versions lack it
        return rng.standard_normal((self.target.batch, 3, *self.model.image_size), dtype=np.float32)

    def inputs(self, cell: CellPlan, images: npt.NDArray[np.float32], rng: np.random.Generator) -> list[Array]:
        """What a cell's part is run on; equal inputs are one array."""
        batch, count = self.target.batch, cell.count
        made: dict[str, Array] = {"images": images}
        if "tokens" in cell.inputs:
            made["tokens"] = rng.standard_normal((batch, count, self.width), dtype=np.float32)
        if "places" in cell.inputs:
            made["places"] = np.tile(np.arange(count, dtype=np.int64), (batch, 1))
        return [made[name] for name in cell.inputs]

    def example(self, part: str) -> tuple[CellPlan, list[Array]]:
        """The largest cell of a part, and inputs to convert or calibrate it by."""
        cell = max((cell for cell in self.cells if cell.part == part), key=lambda cell: (cell.count, cell.kept))
        rng = np.random.default_rng(0)
        return cell, self.inputs(cell, self.images(rng), rng)


def time_plan(
    plan: TablePlan,
    clocks: PartClocks,
    open_whole: Callable[[TokenSchedule], Session],
    *,
    seconds: float,
    rng: np.random.Generator,
    begin: float,
    on_step: OnStep,
    longest: float = math.inf,
    say: Callable[[str], None] = lambda sentence: None,
) -> LatencyTable:
    """Time every cell of a plan, and fit the table to whole passes timed in the same rounds.

    Args:
        seconds: Aim for the whole measurement since ``begin``; a slow model takes longer, because every cell runs at
            least 10 times. Whole passes but the first are left out where it is over before they are compiled.
        longest: Seconds after which no more cells are compiled but those of the fewest and the most tokens.

    Returns:
        The calibrated table that is least wrong on the whole passes: the smallest sum of squared log ratios.
    """
    images = plan.images(rng)

    def clock(cell: CellPlan) -> Clock:
        return clocks(cell.part, plan.inputs(cell, images, rng), cell.kept or None)

    on_step("looking for uneven token counts", 0.0)
    uneven = find_shape_penalty(plan, clock, rng, begin + _LOOKING * seconds)
    cells, counts = list[Cell](), dict[str, list[int]]()
    for cell in plan.cells:
        counts.setdefault(cell.kind, []).append(cell.count)

    def between(cell: CellPlan) -> bool:
        return min(counts[cell.kind]) < cell.count < max(counts[cell.kind])

    for done, cell in enumerate(sorted(plan.cells, key=between)):
        on_step("compiling the parts", 0.2 + 0.2 * done / len(plan.cells))
        if not between(cell) or time.perf_counter() - begin < longest:
            cells.append(Cell(cell.kind, cell.count, cell.kept, cell.layers, clock(cell)))
    on_step("compiling whole passes", 0.4)
    wholes = list[Cell]()  # timed in the same rounds as the parts whose sum they are to meet
    for schedule in plan.wholes:
        if wholes and time.perf_counter() - begin > seconds:
            break
        wholes.append(Cell("whole", plan.model.layout.tokens, 0, 1, open_whole(schedule).timer(images)))
    if (parts := len(plan.cells) - len(cells)) or len(wholes) < len(plan.wholes):
        say(
            f"Of the layers' times {parts} of {len(plan.cells)} were left out, and "
            f"{len(plan.wholes) - len(wholes)} of {len(plan.wholes)} whole passes: there was no more time."
        )
    left = max(0.85 * seconds - (time.perf_counter() - begin), 0.1 * seconds)
    _time_cells(cells + wholes, left, rng, lambda share: on_step("timing the parts", 0.4 + 0.6 * share))
    measured = [(schedule, whole.ms(1.0)) for schedule, whole in zip(plan.wholes, wholes, strict=False)]
    tables = (
        LatencyTable(
            plan.target, plan.model, collect(cells, cached, plan.width, uneven), cached=cached,
            calibration=plan.calibration, dense_ms=measured[0][1],
        ).calibrated(measured)
        for cached in _SHARES
    )  # fmt: skip
    best = min(tables, key=lambda table: sum(math.log(table.predict(schedule) / ms) ** 2 for schedule, ms in measured))
    on_step("done", 1.0)
    host = HostFacts.gather(accelerator_name(plan.target))
    return replace(best, seconds=time.perf_counter() - begin, host=host)


@dataclass(slots=True)
class Cell:
    """One clock: a part of ``layers`` layers at ``count`` tokens, timed after other cells ran and in a series.

    The first run of a series fetches its weights from memory, the last finds in the caches what stays there.
    """

    kind: str
    count: int
    kept: int
    layers: int
    run: Clock
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


def _time_cells(
    cells: Sequence[Cell], seconds: float, rng: np.random.Generator, on_share: Callable[[float], None]
) -> None:
    """Time every cell once a round, in random order, and take out how fast the machine was in each round."""
    for cell in cells:
        cell.run()
    end, least = time.perf_counter() + seconds, _ROUNDS[0]
    for done in range(_ROUNDS[1]):
        if done >= least and time.perf_counter() >= end:
            break
        on_share(done / _ROUNDS[1])
        for index in rng.permutation(len(cells)):
            cells[index].time()
    speeds = round_speeds(np.array([cell.warm for cell in cells]))
    for cell in cells:
        cell.cold = [ms / speed for ms, speed in zip(cell.cold, speeds, strict=True)]
        cell.warm = [ms / speed for ms, speed in zip(cell.warm, speeds, strict=True)]


def round_speeds(times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much longer everything took in each round than in the median round, of times (cells, rounds).

    Processors change their clock by tens of per cent for seconds at a time. Whatever does that to one cell does it
    to all of the same round, so it shows as a factor common to them (Tukey's median polish, one step, on a log scale).
    """
    logs = np.log(times)
    common = np.median(logs - np.median(logs, axis=1, keepdims=True), axis=0)
    speeds: npt.NDArray[np.float64] = np.exp(common - np.median(common))
    return speeds


def collect(cells: Sequence[Cell], cached: float, width: int, uneven: ShapePenalty | None = None) -> LayerCells:
    """Times per layer, less the cost of starting an inference (which the stem keeps) and what is a count's own."""
    empty = next(cell.ms(1.0) for cell in cells if cell.kind == "empty")
    times = dict[tuple[str, int, int], float]()
    for cell in cells:
        more = (uneven or EVEN).more(cell.kind, cell.count, cell.kept)
        times[cell.kind, cell.count, cell.kept] = max((cell.ms(cached) - empty) / cell.layers - more, 1e-5)

    def curve(kind: str, width: int = 0) -> Curve:
        points = sorted((count, ms) for (name, count, _), ms in times.items() if name == kind)
        return Curve(tuple(count for count, _ in points), tuple(ms for _, ms in points), width)

    drops = list[DropCell]()
    for count in sorted({count for kind, count, _ in times if kind == "drop"}):
        kept = sorted(kept for kind, tokens, kept in times if (kind, tokens) == ("drop", count))
        few, many = kept[0], kept[-1]
        drops.append(DropCell(count, few, times["drop", count, few], many, times["drop", count, many]))
    return LayerCells(
        attend=curve("attend", width),
        drop=tuple(drops),
        feed=curve("feed"),
        last=curve("last") if any(kind == "last" for kind, _, _ in times) else None,
        stem_ms=next(ms for (kind, _, _), ms in times.items() if kind == "stem") + empty,
        head=curve("head"),
        uneven=uneven,
    )


_FROM = 32  # Shorter sequences take the time of their weights, whatever their length
_BEYOND = 4  # Counts above all tokens that are looked at too: the line below all times ends in its last point
_OFF = 0.06  # The excess, relative, that is told from noise
# Counts of a sample, which may be all that there is to see; rounds of a look, the first untimed; and about how often
# all counts are looked at in the end, what stands out being looked at twice.
_SAMPLE, _LOOKS, _TWICE = 24, (1, 5), 1.5
# All tokens take at least so many times what few do, or there is no product to look at (fused, or none at all).
_GROWTH = 1.5
# Counts at which attention's own excess is looked at; where there is none, half: it has half of the products.
_COMPARED = 6


def find_shape_penalty(
    plan: TablePlan, clock: Callable[[CellPlan], Clock], rng: np.random.Generator, end: float
) -> ShapePenalty | None:
    """By how much single token counts exceed the line below all, for a feed-forward and an attention half.

    Each count is timed in turns with one that stays the same, so that a machine that changes its speed changes both;
    what stands out is timed once more. ``None`` where times are even, as they are on most targets, or where there is no
    time until ``end`` to look at every count: knowing half of them would make the others look better than they are.
    """
    # The fewest tokens: after tokens were dropped, where that is a part of its own.
    feed, attend = (
        min((cell for cell in plan.cells if cell.kind == kind), key=lambda cell: cell.count)
        for kind in ("feed", "attend")
    )
    tokens = plan.model.layout.tokens
    counts = np.arange(_FROM, tokens + _BEYOND + 1)
    if len(counts) <= _SAMPLE:
        return None
    still, units = clock(replace(feed, count=tokens // 2)), list[float]()

    def look(cell: CellPlan, counts: Iterable[int], end: float = math.inf) -> dict[int, float]:
        """A layer's time by count, ascending, in units of the clock that stays the same; as far as time allows."""
        times = dict[int, float]()
        for count in counts:
            if time.perf_counter() > end:
                break
            run = clock(replace(cell, count=count))
            pairs = [(run(), still()) for _ in range(sum(_LOOKS))][_LOOKS[0] :]
            own, unit = (min(times) for times in zip(*pairs, strict=True))
            units.append(unit)
            times[count] = own / cell.layers / unit * feed.layers
        return dict(sorted(times.items()))

    begin = time.perf_counter()
    ends = look(feed, (_FROM, tokens))
    each = (time.perf_counter() - begin) / 2
    if begin + each * (_SAMPLE + _TWICE * len(counts)) > end or ends[tokens] < _GROWTH * ends[_FROM]:
        return None
    sampled = {tokens, *rng.permutation(counts)[:_SAMPLE].tolist(), *counts[-_BEYOND:].tolist()}
    if not _excess(look(feed, sorted(sampled))):
        return None
    first = look(feed, rng.permutation(counts).tolist(), end)
    suspects = _excess(first)
    again = look(feed, rng.permutation(list(suspects)).tolist(), end)
    if len(first) < len(counts) or len(again) < len(suspects):
        return None
    excess = _excess(first, again)
    unit_ms = median(units) / feed.layers  # of a layer of the clock that stays the same
    mine = {count: more * unit_ms for count, more in excess.items() if count <= tokens}
    if not mine:
        return None
    dropping, last = plan.all_rows
    return ShapePenalty(tuple(mine), tuple(mine.values()), _share(look, attend, excess, tokens), dropping, last)


def _excess(first: Mapping[int, float], again: Mapping[int, float] | None = None) -> dict[int, float]:
    """By count, what of the lesser of its times is clearly above the line below all."""
    times = np.array(list(first.values()))
    # A single time that is too short would pull the line down, and half of all counts with it.
    steady = [np.partition(times[max(0, index - 2) : index + 3], 1)[1] for index in range(len(times))]
    line = _line_below(np.array(list(first)), np.maximum(times, steady))
    excess = dict[int, float]()
    for (count, once), below in zip(first.items(), line.tolist(), strict=True):
        least = once if again is None else min(once, again.get(count, 0.0))
        if least - below > _OFF * least:
            excess[count] = least - below
    return excess


def _line_below(counts: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower convex hull (Andrew's monotone chain) at every count."""
    corners = list[tuple[float, float]]()
    for x, y in zip(counts.tolist(), times.tolist(), strict=True):
        while len(corners) > 1:
            (x0, y0), (x1, y1) = corners[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            corners.pop()
        corners.append((x, y))
    line: NDArray[np.float64] = np.interp(counts, [x for x, _ in corners], [y for _, y in corners])
    return line


_Look = Callable[[CellPlan, Iterable[int]], dict[int, float]]


def _share(look: _Look, attend: CellPlan, excess: Mapping[int, float], tokens: int) -> float:
    """Attention's excess as a share of the feed-forward half's, at the counts where that is largest.

    Attention is not asked about more tokens than there are: some families have no positions for them.
    """
    even = [count for count in range(min(excess) - 1, max(excess) + 2) if count not in excess]
    beside = {
        count: (max(other for other in even if other < count), min(other for other in even if other > count))
        for count in excess
    }
    within = [count for count, (_, high) in beside.items() if high <= tokens]
    shares = []
    for count in sorted(within, key=excess.__getitem__)[-_COMPARED:]:
        low, high = beside[count]
        times = look(attend, (low, count, high))
        line = float(np.interp(count, (low, high), (times[low], times[high])))
        shares.append((times[count] - line) / excess[count])
    return min(max(median(shares), 0.0), 1.0) if shares else 0.5

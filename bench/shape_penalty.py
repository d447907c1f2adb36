"""Token counts that take longer than their neighbours on a target, so that a latency table knows them.

Matrix products are worked off in blocks of rows. Where the number of rows falls into no good blocks, a product takes up
to three quarters longer: on OpenVINO in bf16, on a processor with AVX-512, that is so of primes above 64 (and ViT's own
197 is one) and of their doubles. Which counts those are is the library's own business, so they are looked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tavt_kit.bench.table_plan import CellPlan, TablePlan
from tavt_kit.core.layer_cells import ShapePenalty

_FROM = 32
"""Shorter sequences take the time of their weights, whatever their length."""

_BEYOND = 4
"""Counts above all tokens that are looked at too: the line below all times ends in its last point."""

_OFF = 0.06
"""The excess, relative, that is told from noise."""

_SAMPLE, _ROUNDS, _TWICE = 24, (1, 5), 1.5
"""Counts of a sample, which may be all that there is to see; rounds of a look, the first untimed; and about how often
all counts are looked at in the end, what stands out being looked at twice."""

_GROWTH = 1.5
"""All tokens take at least so many times what few do, or there is no product to look at (fused, or none at all)."""

_COMPARED = 6
"""Counts at which attention's own excess is looked at; where there is none, half: it has half of the products."""

Clock = Callable[[], float]
"""Runs a part once; milliseconds."""


def find_shape_penalty(
    plan: TablePlan, clock: Callable[[CellPlan], Clock], rng: np.random.Generator, end: float
) -> ShapePenalty | None:
    """By how much single token counts exceed the line below all, for a feed-forward and an attention half.

    Each count is timed in turns with one that stays the same, so that a machine that changes its speed changes both;
    what stands out is timed once more.

    Args:
        plan: Has the halves.
        clock: Of a cell.
        rng: Orders the looks.
        end: ``time.perf_counter()`` by which every count must have been looked at: knowing half of them would make the
            others look better than they are.

    Returns:
        ``None`` where times are even, as they are on most targets, or where there is no time to tell.
    """
    feed, attend = (_least_chain(plan, kind) for kind in ("feed", "attend"))
    tokens = plan.model.layout.tokens
    counts = np.arange(_FROM, tokens + _BEYOND + 1)
    if len(counts) <= _SAMPLE:
        return None
    look = _Look(clock, replace(feed, count=tokens // 2))
    begin = time.perf_counter()
    ends = look.at(feed, (_FROM, tokens))
    each = (time.perf_counter() - begin) / 2
    if begin + each * (_SAMPLE + _TWICE * len(counts)) > end or ends[tokens] < _GROWTH * ends[_FROM]:
        return None
    sampled = {tokens, *rng.permutation(counts)[:_SAMPLE].tolist(), *counts[-_BEYOND:].tolist()}
    if not _excess(look.at(feed, sorted(sampled))):
        return None
    first = look.at(feed, rng.permutation(counts).tolist(), end)
    suspects = _excess(first)
    again = look.at(feed, rng.permutation(list(suspects)).tolist(), end)
    if len(first) < len(counts) or len(again) < len(suspects):
        return None
    found = _excess(first, again)
    mine = {count: more * look.unit_ms for count, more in found.items() if count <= tokens}
    if not mine:
        return None
    dropping, last = plan.all_rows
    return ShapePenalty(tuple(mine), tuple(mine.values()), _share(look, attend, found, tokens), dropping, last)


class _Look:
    """Times of a layer's halves at many counts, in units of one clock that stays the same.

    Args:
        clock: Of a cell.
        still: What that one clock runs.
    """

    def __init__(self, clock: Callable[[CellPlan], Clock], still: CellPlan) -> None:
        self._clock, self._still = clock, clock(still)
        self._layers, self._units = still.layers, list[float]()

    def at(self, cell: CellPlan, counts: Iterable[int], end: float = math.inf) -> dict[int, float]:
        """A layer's time by count, ascending; as many as there is time for until ``end``."""
        found = dict[int, float]()
        for count in counts:
            if time.perf_counter() > end:
                break
            run = self._clock(replace(cell, count=count))
            pairs = [(run(), self._still()) for _ in range(sum(_ROUNDS))][_ROUNDS[0] :]
            own, still = (min(times) for times in zip(*pairs, strict=True))
            self._units.append(still)
            found[count] = own / cell.layers / still * self._layers
        return dict(sorted(found.items()))

    @property
    def unit_ms(self) -> float:
        """Milliseconds of the unit, a layer of the clock that stays the same: over all looks, the median."""
        return median(self._units) / self._layers


def _excess(first: Mapping[int, float], again: Mapping[int, float] | None = None) -> dict[int, float]:
    """By count, what of the lesser of its times is clearly above the line below all.

    Args:
        first: A look at all counts, ascending.
        again: One at those that stood out in it.
    """
    times = np.array(list(first.values()))
    # A single time that is too short would pull the line down, and half of all counts with it.
    steady = [np.partition(times[max(0, place - 2) : place + 3], 1)[1] for place in range(len(times))]
    line = _line_below(np.array(list(first)), np.maximum(times, steady))
    found = dict[int, float]()
    for (count, once), below in zip(first.items(), line.tolist(), strict=True):
        least = once if again is None else min(once, again.get(count, 0.0))
        if least - below > _OFF * least:
            found[count] = least - below
    return found


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


def _share(look: _Look, attend: CellPlan, found: Mapping[int, float], tokens: int) -> float:
    """Attention's excess as a share of the feed-forward half's, at the counts where that is largest.

    Attention is not asked about more tokens than there are: some families have no positions for them.
    """
    beside = {count: (_even(count, -1, found), _even(count, 1, found)) for count in found}
    within = [count for count, (_, high) in beside.items() if high <= tokens]
    shares = []
    for count in sorted(within, key=found.__getitem__)[-_COMPARED:]:
        low, high = beside[count]
        times = look.at(attend, (low, count, high))
        line = float(np.interp(count, (low, high), (times[low], times[high])))
        shares.append((times[count] - line) / found[count])
    return min(max(median(shares), 0.0), 1.0) if shares else 0.5


def _even(count: int, step: int, found: Mapping[int, float]) -> int:
    """The nearest count without an excess."""
    count += step
    while count in found:
        count += step
    return count


def _least_chain(plan: TablePlan, kind: str) -> CellPlan:
    """The cell of a half with the fewest tokens: after tokens were dropped, where that is a part of its own."""
    return min((cell for cell in plan.cells if cell.kind == kind), key=lambda cell: cell.count)

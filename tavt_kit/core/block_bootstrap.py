"""Intervals of medians over rounds: a bootstrap that draws blocks of neighbouring rounds, because noise outlasts one.

The circular block bootstrap (Politis & Romano, A circular block-resampling procedure for stationary data, 1992):
behind the last round comes the first; blocks are about the cube root of the rounds long; percentile intervals. Of fewer
than 20 rounds each is a block of its own: fewer draws make the interval too narrow, which weighs more (of independent
rounds, 6 a row, blocks of two hold the truth 84 times in 100, single ones 91).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import median

from tavt_kit.core.measurement import percentile

DRAWS = 2000
"""The ends of a 95 % interval then lie within about 0.5 % of their percentiles."""

LEAST_ROUNDS = 6
"""Fewer rounds have no 95 % interval of their median (``median_ranks``): resampling cannot go beyond what was seen."""

LEAST_FOR_BLOCKS = 20
"""Fewer rounds are drawn one by one."""


def median_interval(
    rows: Sequence[Sequence[float]], figure: Callable[[Sequence[float]], float], *, seed: int = 0
) -> tuple[float, float, float]:
    """A figure of the medians of some rows, and its 95 % interval, which holds it; each row is drawn by itself.

    Args:
        rows: Values of rounds, in the order of time, at least ``LEAST_ROUNDS`` of each.
        figure: Figure of one median a row.
        seed: Seed of the draws.

    Returns:
        Value, lower end, upper end.

    Example:
        >>> median_interval([[1.0] * 8, [3.0] * 8], lambda medians: medians[1] / medians[0])
        (3.0, 3.0, 3.0)
    """
    draws = random.Random(seed)
    value = figure([median(row) for row in rows])
    drawn = [figure([median(_blocks(row, draws)) for row in rows]) for _ in range(DRAWS)]
    return value, min(percentile(drawn, 0.025), value), max(percentile(drawn, 0.975), value)


def _blocks(row: Sequence[float], draws: random.Random) -> list[float]:
    """As many values as the row has, in blocks of neighbours."""
    n = len(row)
    if n < LEAST_FOR_BLOCKS:
        return draws.choices(row, k=n)
    length, found = round(n ** (1 / 3)), list[float]()
    while len(found) < n:
        start = draws.randrange(n)
        found += [row[(start + step) % n] for step in range(min(length, n - len(found)))]
    return found

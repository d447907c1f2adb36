"""What a cell of the latency table times: its first run, and one after the caches have settled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tavt_kit.bench.timing import Cell


def falling(first: float, last: float) -> tuple[Callable[[], float], list[float]]:
    """A run that is faster each time, down to ``last``, and what it took."""
    took: list[float] = []

    def run() -> float:
        took.append(max(last, first * 0.8 ** len(took)))
        return took[-1]

    return run, took


@pytest.mark.parametrize(("first", "last", "runs"), [(6.0, 4.0, 9), (0.1, 0.01, 9), (15.0, 15.0, 4), (50.0, 45.0, 2)])
def test_a_series_ends_when_the_caches_have_settled(first: float, last: float, runs: int) -> None:
    run, took = falling(first, last)
    cell = Cell("whole", 65, 0, 1, run)
    cell.time()
    assert len(took) == runs and cell.cold == [took[0]] and cell.warm == [took[-1]]
    assert cell.ms(0.0) == took[0] and cell.ms(1.0) == pytest.approx(took[-1])
    assert cell.ms(0.5) == pytest.approx((took[0] + took[-1]) / 2)

"""Picking from a recorded front."""

from __future__ import annotations

from typing import Any

import pytest

from tavt_kit.errors import BudgetError, RecordError
from tavt_kit.workflows.schedules import best_within, knee_of


def record(
    macs: int, top1: float, agreement: float, median: float | None = None, origin: str = "nsga2"
) -> dict[str, Any]:
    times = None if median is None else {"predicted": median, "median": median, "p90": 1.1 * median}
    others = {"agreement": {"value": agreement}}
    return {"macs": macs, "top1": top1, "others": others, "latency_ms": times, "origin": origin}


THREE = {
    "metric": "top1", "objectives": ["macs", "top1", "agreement"], "target": None, "baselines": [],
    "candidates": [record(1, 0.2, 0.1), record(2, 0.8, 0.5), record(3, 0.7, 0.9), record(9, 0.9, 1.0, origin="dense")],
}  # fmt: skip


def test_three_objectives_do_not_confuse_the_best_with_the_last() -> None:
    assert best_within(THREE, ["flops=3"]) == 1
    assert best_within(THREE, ["top1=65%"]) == 1
    assert best_within(THREE, ["drop=25"]) == 1 and best_within(THREE, ["drop=0"]) == 3
    assert knee_of(THREE) == 1
    assert best_within(THREE, ["top1=95%"]) is None


def test_throughput_is_of_the_batch() -> None:
    timed = {
        "metric": "top1", "objectives": ["latency_ms.median", "top1"], "target": {"batch": 4}, "baselines": [],
        "candidates": [record(1, 0.5, 0.1, 10.0), record(2, 0.6, 0.1, 20.0)],
    }  # fmt: skip
    assert best_within(timed, ["throughput=200/s"]) == 1 and best_within(timed, ["throughput=201/s"]) == 0
    assert best_within(timed, ["latency=11ms"]) == 0 and best_within(timed, ["latency[p99]=20ms"]) == 1


def test_what_is_not_recorded_is_refused() -> None:
    for text in ("latency=3ms", "throughput=3/s", "macro_f1=3%", "memory=1GB"):
        with pytest.raises(BudgetError, match="does not record"):
            best_within(THREE, [text])
    with pytest.raises(RecordError, match="no knee"):
        knee_of({**THREE, "candidates": []})

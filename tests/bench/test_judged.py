from __future__ import annotations

import pytest

from tavt_kit.bench.record import BenchRow, judge, refuse_qualities
from tavt_kit.core.budget import Budget
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import BudgetError

CPU = TargetDevice.parse("onnxruntime:cpu:threads=1:batch=2")
TIMES = tuple(10 + 0.01 * (37 * i % 100) for i in range(100))  # p90 about 10.9
DRIFTING = (8.0,) * 50 + (12.0,) * 50


def verdicts(one: BenchRow, *limits: str, is_quiet: bool = True) -> list[str]:
    return [found["verdict"] for found in judge(one, Budget.parse(limits), is_quiet=is_quiet)]


def test_latency_by_its_own_interval() -> None:
    one = BenchRow("a", "a", CPU, Measurement(TIMES, True))
    assert verdicts(one, "latency=11.5ms", "latency[p50]=10.1ms") == ["PASS", "FAIL"]
    assert verdicts(one, "latency=10.9ms") == ["INCONCLUSIVE"]


def test_where_the_machine_was_not_left_in_peace_every_run_must_keep_to_the_limit() -> None:
    one = BenchRow("a", "a", CPU, Measurement(DRIFTING, True))
    assert verdicts(one, "latency[p50]=17ms") == ["PASS"] and verdicts(one, "latency[p50]=13ms") == ["INCONCLUSIVE"]
    quiet = BenchRow("a", "a", CPU, Measurement(TIMES, True))
    assert verdicts(quiet, "latency[p50]=10.9ms") == ["PASS"]
    assert verdicts(quiet, "latency[p50]=10.9ms", is_quiet=False) == ["INCONCLUSIVE"]
    assert verdicts(quiet, "latency[p50]=11ms", is_quiet=False) == ["PASS"]


def test_throughput_is_of_images() -> None:
    two = BenchRow("a", "a", CPU, Measurement((5.0,) * 50, True))
    assert verdicts(two, "throughput=399/s", "latency=4.9ms") == ["PASS", "FAIL"]
    assert verdicts(two, "throughput=401/s", "latency=5.1ms") == ["FAIL", "PASS"] and two.throughput == 400.0


def test_costs_that_are_counted_and_what_is_not_known() -> None:
    memory = {"peak": 200_000_000}
    one = BenchRow("a", "a", CPU, Measurement(TIMES, True), None, 10**9, 30_000_000, memory=memory)
    assert verdicts(one, "flops=1G", "size=29MB", "memory=200MB") == ["PASS", "FAIL", "PASS"]
    live = BenchRow("a", "a", CPU, Measurement(TIMES, True))
    found = judge(live, Budget.parse(["size=1GB", "flops=9G", "memory=1GB"]), is_quiet=True)
    assert {one["verdict"] for one in found} == {"INCONCLUSIVE"} and "no file" in found[0]["reason"]


def test_too_few_runs_for_an_upper_bound_are_inconclusive_and_recorded_as_null() -> None:
    (found,) = judge(
        BenchRow("a", "a", CPU, Measurement((1.0,) * 20, True)), Budget.parse(["latency=9ms"]), is_quiet=True
    )
    assert found["verdict"] == "INCONCLUSIVE" and found["high"] is None


def test_accuracy_is_not_a_bench() -> None:
    with pytest.raises(BudgetError, match="measures no accuracy, got top1=84%"):
        refuse_qualities(Budget.parse(["latency=9ms", "top1=84%"]))

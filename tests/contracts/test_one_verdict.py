"""The same limit and the same facts have one verdict, whoever asks: search, baselines, bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tavt_kit.bench.record import BenchRow
from tavt_kit.bench.record import judge as judge_bench
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Budget, facts_of, judge
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.schedule import TokenSchedule

TARGET = TargetDevice.parse("onnxruntime:cpu:threads=1:batch=4")
SCHEDULE = TokenSchedule((9, 7))


@dataclass(frozen=True)
class Known:
    """What is known of a model, in the words of ``facts_of``."""

    latency: Measurement | None = None
    right: int | None = None
    difference: PairedDifference | None = None
    macs: int = 3_000_000

    @property
    def accuracy(self) -> Accuracy | None:
        return None if self.right is None else Accuracy.of_counts(self.right, 1000, split="val")

    @property
    def candidate(self) -> Candidate:
        return Candidate(
            SCHEDULE, self.macs, self.accuracy, latency=self.latency, target=TARGET, difference=self.difference
        )


KNOWN = {
    "nothing measured": Known(),
    "steady": Known(Measurement(tuple(8 + 37 * i % 100 / 100 for i in range(100)), True), 900),
    "drifting": Known(Measurement((8.0,) * 50 + (12.0,) * 50, False), 840),
    "few runs": Known(Measurement((8.0,) * 20, True), 500, difference=PairedDifference.of_counts(0, 4, 800)),
    "on the line": Known(Measurement((8.0,) * 40, True), difference=PairedDifference.of_counts(10, 2, 800)),
}
LIMITS = (
    "latency=8ms", "latency=8.9ms", "latency=7ms", "latency[p50]=8ms", "latency[p50]=9ms", "latency[p99]=9ms",
    "throughput=500/s", "throughput=400/s", "throughput=600/s", "flops=3M", "flops=2.9M",
    "top1=80%", "top1=88%", "top1=95%", "macro_f1=50%", "drop=0.5", "drop=2", "drop=0",
)  # fmt: skip


def by_candidate(known: Known, budget: Budget) -> str:
    return str(known.candidate.judged(budget).verdict)


def by_baseline(known: Known, budget: Budget) -> str:
    one = Baseline(
        "other", "other", "val", known.macs, known.accuracy, latency=known.latency, batch=TARGET.batch,
        difference=known.difference,
    )  # fmt: skip
    return str(one.judged(budget).verdict)


def by_bench(known: Known, budget: Budget) -> str:
    assert known.latency is not None
    row = BenchRow("a", "a", TARGET, known.latency, SCHEDULE, known.macs)
    return str(judge_bench(row, budget, is_quiet=True)[0]["verdict"])


ASKED: dict[Callable[[Known, Budget], str], Callable[[Known, str], bool]] = {
    by_candidate: lambda known, quantity: True,
    by_baseline: lambda known, quantity: True,
    by_bench: lambda known, quantity: known.latency is not None and quantity not in ("top1", "macro_f1", "drop"),
}
"""Who judges, and whether what it judges can have such facts."""


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("text", LIMITS)
def test_every_caller_gives_the_verdict_of_judge(text: str, name: str) -> None:
    known, budget = KNOWN[name], Budget.parse([text])
    (limit,) = budget
    one = known.candidate
    facts = facts_of(
        macs=one.macs, latency=one.latency, batch=TARGET.batch, accuracies=[one.accuracy],
        difference=one.difference,
    )  # fmt: skip
    expected = str(judge(limit, facts))
    found = {caller.__name__: caller(known, budget) for caller, asked in ASKED.items() if asked(known, limit.quantity)}
    assert found and set(found.values()) == {expected}, found


def test_the_table_has_every_verdict_that_a_measurement_can_have() -> None:
    """Otherwise the callers could agree on one word for everything."""
    said = {by_candidate(known, Budget.parse([text])) for known in KNOWN.values() for text in LIMITS}
    assert said == {"PASS", "FAIL", "INCONCLUSIVE"}


@pytest.mark.parametrize(("text", "verdict"), [("latency=9ms", "PREDICTED"), ("latency=7ms", "FAIL")])
def test_a_prediction_within_the_budget_is_no_proof(text: str, verdict: str) -> None:
    one, budget = Candidate(SCHEDULE, 1, latency_predicted_ms=8.0, target=TARGET), Budget.parse([text])
    assert str(one.judged(budget).verdict) == verdict

"""Budget texts, and verdicts by intervals."""

from __future__ import annotations

import random

import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget, Limit, Verdict, facts_of, judge, worst
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "quantity", "statistic", "sense", "value"),
    [
        ("latency=20ms", "latency", "p90", "<=", 20.0),
        ("latency[p50]=20ms", "latency", "p50", "<=", 20.0),
        ("latency[p99] <= 0.5 s", "latency", "p99", "<=", 500.0),
        ("latency=250us", "latency", "p90", "<=", 0.25),
        ("flops=9G", "flops", None, "<=", 9e9),
        ("flops=1.5T", "flops", None, "<=", 1.5e12),
        ("flops<=400M", "flops", None, "<=", 4e8),
        ("flops=4e9", "flops", None, "<=", 4e9),
        ("memory=300MB", "memory", None, "<=", 3e8),
        ("size=2MiB", "size", None, "<=", 2.0**21),
        ("throughput=120/s", "throughput", None, ">=", 120.0),
        ("top1=84%", "top1", None, ">=", 0.84),
        ("top1>=0.84", "top1", None, ">=", 0.84),
        ("drop=0.5", "drop", None, "<=", 0.005),
        ("drop=0", "drop", None, "<=", 0.0),
        ("macro_f1=80%", "macro_f1", None, ">=", 0.8),
        ("recall[fine crack]=98%", "recall", "fine crack", ">=", 0.98),
    ],
)
def test_reads(text: str, quantity: str, statistic: str | None, sense: str, value: float) -> None:
    limit = Limit.parse(text)
    assert (limit.quantity, limit.statistic, limit.sense) == (quantity, statistic, sense)
    assert limit.value == pytest.approx(value)
    assert Limit.parse(str(limit)).value == pytest.approx(limit.value, rel=1e-11)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latency=20", "the unit is one of"),
        ("latency=0ms", "positive"),
        ("latency=-3ms", "positive"),
        ("latency=nanms", "positive"),
        ("latency=infms", "positive"),
        ("latency=20m", "the unit is one of"),
        ("latency=fast", "cannot read"),
        ("latency[p95]=20ms", "p50, p90, p99"),
        ("latency>=20ms", "at most"),
        ("latency", "QUANTITY=VALUE"),
        ("", "QUANTITY=VALUE"),
        ("latency=", "QUANTITY=VALUE"),
        ("speed=20ms", "limits one of"),
        ("flops=9GB", "the unit is one of"),
        ("flops[p50]=9G", "no variants"),
        ("top1=84", "percent sign"),
        ("top1=101%", "percent sign"),
        ("top1<=84%", "at least"),
        ("drop=-1", "positive"),
        ("drop=0.5%", "the unit is one of"),
        ("recall=98%", "names its class"),
        ("throughput=120", "'/s'"),
    ],
)
def test_refuses_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(BudgetError, match=says) as caught:
        Limit.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(50))
def test_text_round_trip(seed: int) -> None:
    rng = random.Random(seed)
    value = rng.uniform(0.001, 0.999)
    for quantity, statistic, sense, scale in (
        ("latency", "p50", "<=", 1e3), ("flops", None, "<=", 1e12), ("drop", None, "<=", 1.0),
        ("memory", None, "<=", 1e10), ("top1", None, ">=", 1.0), ("throughput", None, ">=", 1e4),
    ):  # fmt: skip
        limit = Limit(quantity, statistic, sense, value * scale)  # type: ignore[arg-type]
        again = Limit.parse(str(limit))
        assert again.value == pytest.approx(limit.value, rel=1e-10) and again.name == limit.name


def test_budget_collapses_repeats_and_refuses_contradictions() -> None:
    budget = Budget.parse(["latency=20ms", "flops=9G", "latency[p90]=0.02s", "top1=84%"])
    assert budget.texts() == ["latency=20ms", "flops=9G", "top1=84%"]
    assert [limit.quantity for limit in budget.ceilings] == ["latency", "flops"]
    assert [limit.quantity for limit in budget.floors] == ["top1"]
    assert len(Budget.parse(["latency=20ms", "latency[p50]=15ms"]).of("latency")) == 2
    with pytest.raises(BudgetError, match="contradict"):
        Budget.parse(["latency=20ms", "latency=10ms"])


def test_worst() -> None:
    assert worst([]) is Verdict.PASS
    assert worst([Verdict.PASS, Verdict.PREDICTED]) is Verdict.PREDICTED
    assert worst([Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]) is Verdict.FAIL


@pytest.mark.parametrize(
    ("text", "correct", "verdict"),
    [("top1=80%", 900, "PASS"), ("top1=90%", 900, "INCONCLUSIVE"), ("top1=95%", 900, "FAIL")],
)
def test_accuracy_interval_decides(text: str, correct: int, verdict: str) -> None:
    assert judge(Limit.parse(text), facts_of(accuracies=[Accuracy.of_counts(correct, 1000, split="val")])) == verdict


def test_accuracy_of_another_metric_decides_nothing() -> None:
    facts = facts_of(accuracies=[Accuracy.of_counts(9, 10, split="val")])
    assert judge(Limit.parse("macro_f1=80%"), facts) is Verdict.INCONCLUSIVE


def _timed(limit: Limit, run: Measurement) -> Verdict:
    return judge(limit, facts_of(latency=run))


def test_latency_interval_decides() -> None:
    spread = Measurement(tuple(1.0 + 37 * i % 100 / 100 for i in range(100)), steady=True)
    assert _timed(Limit.parse("latency=2ms"), spread) is Verdict.PASS
    assert _timed(Limit.parse("latency=1.9ms"), spread) is Verdict.INCONCLUSIVE
    assert _timed(Limit.parse("latency=1.7ms"), spread) is Verdict.FAIL
    assert _timed(Limit.parse("latency[p50]=1.7ms"), spread) is Verdict.PASS
    # too few samples say nothing of a far quantile
    assert _timed(Limit.parse("latency[p99]=2ms"), spread) is Verdict.INCONCLUSIVE
    assert _timed(Limit.parse("latency[p50]=1.3ms"), spread) is Verdict.FAIL


def test_an_unsteady_measurement_decides_only_where_every_run_agrees() -> None:
    unsteady = Measurement(tuple(1.0 + 37 * i % 100 / 100 for i in range(100)), steady=False)  # 1.00 to 1.99 ms
    for name in ("latency[p50]", "latency"):
        assert _timed(Limit.parse(f"{name}=1.98ms"), unsteady) is Verdict.INCONCLUSIVE
        assert _timed(Limit.parse(f"{name}=1.01ms"), unsteady) is Verdict.INCONCLUSIVE
        assert _timed(Limit.parse(f"{name}=1.99ms"), unsteady) is Verdict.PASS
        assert _timed(Limit.parse(f"{name}=0.99ms"), unsteady) is Verdict.FAIL

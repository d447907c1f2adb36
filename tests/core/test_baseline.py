"""Baselines: judged by the same budget as schedules, and recorded as rows of a closing table."""

from __future__ import annotations

import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Baseline
from tavt_kit.core.measurement import Measurement


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [
        (["flops=1M"], Verdict.PASS),
        (["flops=1K"], Verdict.FAIL),
        (["latency=8ms"], Verdict.PASS),
        (["latency=6ms"], Verdict.FAIL),
        (["throughput=500/s"], Verdict.PASS),
        (["throughput=600/s"], Verdict.FAIL),
        (["top1=20%"], Verdict.PASS),
        (["top1=50%", "flops=1M"], Verdict.INCONCLUSIVE),
        (["macro_f1=50%"], Verdict.INCONCLUSIVE),
        (["drop=1"], Verdict.INCONCLUSIVE),
        ([], Verdict.PASS),
    ],
)
def test_a_baseline_is_judged_as_a_schedule_would_be(budget: list[str], verdict: Verdict) -> None:
    baseline = Baseline("other", "other", "val", 900_000, Accuracy.of_counts(50, 100, split="val"),
                  latency=Measurement((7.0,) * 40, steady=True), batch=4)  # fmt: skip
    judged = baseline.judged(Budget.parse(budget))
    assert judged.verdict is verdict
    record = judged.as_record()
    assert (
        record["top1"] == 0.5 and record["latency_ms"]["median"] == 7.0 and record["latency_ms"]["raw_ms"] == [7.0] * 40
    )


def test_what_is_not_known_is_no_pass() -> None:
    for budget in ("flops=1M", "latency=8ms", "top1=20%"):
        assert Baseline("name", "other", "val").judged(Budget.parse([budget])).verdict is Verdict.INCONCLUSIVE
    assert "top1" not in Baseline("name", "other", "val").as_record()

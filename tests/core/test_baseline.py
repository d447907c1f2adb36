"""Baselines: judged by the same budget as schedules, and recorded as rows of a closing table."""

from __future__ import annotations

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.candidate import Baseline
from tavt_kit.core.measurement import Measurement


def test_its_record_is_a_row_of_a_closing_table() -> None:
    """How it is judged: ``tests/contracts/test_one_verdict.py``."""
    baseline = Baseline("other", "other", "val", 900_000, Accuracy.of_counts(50, 100, split="val"),
                        latency=Measurement((7.0,) * 40, steady=True), batch=4)  # fmt: skip
    record = baseline.judged(Budget.parse(["throughput=500/s"])).as_record()
    assert record["verdict"] == "PASS" and record["top1"] == 0.5 and record["latency_ms"]["median"] == 7.0
    assert record["latency_ms"]["raw_ms"] == [7.0] * 40


def test_what_is_not_known_is_no_pass() -> None:
    for budget in ("flops=1M", "latency=8ms", "top1=20%"):
        assert Baseline("name", "other", "val").judged(Budget.parse([budget])).verdict is Verdict.INCONCLUSIVE
    assert "top1" not in Baseline("name", "other", "val").as_record()

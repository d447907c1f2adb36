"""TAVT's official learning rates: every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tavt_kit.distill.options import LearningRate
from tests.parity.official import load

pytestmark = pytest.mark.kind("tavt_schedules")


def test_every_learning_rate(reference: Path, name: str) -> None:
    arrays, meta = load(reference, name)
    assert len(meta["data"]) == int(arrays["n"])
    assert {case["kind"] for case in meta["data"]} == {"cosine", "linear"}
    for case in meta["data"]:
        rate = LearningRate(case["base_lr"], case["warmup"], case["total"], case["kind"])
        assert rate.at(0) == case["lr_initial"]
        official = case["lr_after_k_scheduler_steps_k_from_1"]
        assert len(official) == case["total"]
        ours = [rate.at(k) for k in range(1, case["total"] + 1)]
        assert ours == pytest.approx(official, rel=1e-12, abs=1e-15)

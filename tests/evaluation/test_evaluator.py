"""Accuracy by the lean path: the same answers as the plain model, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import DataError, MeasurementError
from tavt_kit.evaluation import evaluator as module
from tavt_kit.evaluation.evaluator import LeanEvaluator
from tests.verbs.tiny import write_run

DROPPING = TokenSchedule((17, 12, 6, 6))


@pytest.fixture
def evaluator(tmp_path: Path) -> LeanEvaluator:
    model = load_model(write_run(tmp_path / "run"))
    rng = np.random.default_rng(0)
    # coarse blocks of colour: pictures that differ in more than noise
    pixels = rng.integers(0, 255, (64, 3, 4, 4), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    preprocessing = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    return LeanEvaluator(model, pixels, rng.integers(0, 3, 64), preprocessing)


def test_counts_what_the_plain_model_has_right(evaluator: LeanEvaluator) -> None:
    model = evaluator.model
    for schedule in (model.dense_schedule, DROPPING):
        model.schedule = schedule
        with torch.inference_mode():
            logits = model(torch.from_numpy(normalise(evaluator.pixels, evaluator.preprocessing)))
        model.schedule = model.dense_schedule
        assert torch.allclose(evaluator.logits(schedule), logits, atol=1e-4)
        accuracy = evaluator(schedule)
        right = int((logits.argmax(1).numpy() == evaluator.labels).sum())
        assert (accuracy.value, accuracy.n, accuracy.split) == (right / 64, 64, "val")
    assert model.schedule == model.dense_schedule


def test_batches_do_not_matter(evaluator: LeanEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluator.logits(DROPPING)
    monkeypatch.setattr(module, "_TOKENS_AT_ONCE", 5 * 17)
    assert torch.allclose(evaluator.logits(DROPPING), whole, atol=1e-5)


def test_paired_with_dense(evaluator: LeanEvaluator) -> None:
    dense = evaluator.model.dense_schedule
    difference = evaluator.against(dense, DROPPING)
    before, after = evaluator.right(dense), evaluator.right(DROPPING)
    assert (difference.gained, difference.lost) == (sum(after & ~before), sum(before & ~after))
    assert difference.flips > 0 and evaluator.against(dense, dense).flips == 0


def test_bf16_is_autocast(evaluator: LeanEvaluator) -> None:
    full = evaluator.logits(DROPPING)
    evaluator.precision = "bf16"
    half = evaluator.logits(DROPPING)
    assert half.dtype == torch.float32 and not torch.equal(half, full)


def test_refusals(evaluator: LeanEvaluator) -> None:
    with pytest.raises(DataError, match="needs pictures"):
        LeanEvaluator(evaluator.model, evaluator.pixels[:0], evaluator.labels[:0], evaluator.preprocessing)
    with torch.no_grad():
        next(evaluator.model.parameters()).fill_(float("nan"))
    with pytest.raises(MeasurementError, match="not finite"):
        evaluator(DROPPING)

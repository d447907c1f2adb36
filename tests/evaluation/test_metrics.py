"""Metrics beside top-1, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tavt_kit.errors import DataError, UnknownName
from tavt_kit.evaluation.metrics import Scoring, metric_named

NAMES = ("a", "b", "c", "never")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 80)
LOGITS = RNG.normal(size=(80, 4)) + 2 * np.eye(4)[LABELS]


def test_values_are_those_of_the_definitions() -> None:
    from sklearn.metrics import f1_score, log_loss, recall_score  # whose import takes four seconds

    dense = RNG.normal(size=(80, 4))
    scoring = Scoring(("top1", "macro_f1", "recall[b]", "loss", "agreement", "divergence", "loss"), LABELS, NAMES)
    assert scoring.names == ("macro_f1", "recall[b]", "likelihood", "agreement", "fidelity")
    f1, recall, likelihood, agreement, fidelity = scoring.of(LOGITS.astype(np.float32), lambda: dense)
    predicted = LOGITS.argmax(1)
    present = sorted(set(LABELS) | set(predicted))
    assert f1.value == pytest.approx(f1_score(LABELS, predicted, labels=present, average="macro"))
    assert recall.value == pytest.approx(recall_score(LABELS, predicted, labels=[1], average=None)[0])
    assert recall.n == (LABELS == 1).sum()
    shares = torch.softmax(torch.from_numpy(LOGITS), 1).numpy()
    assert -np.log(likelihood.value) == pytest.approx(log_loss(LABELS, shares, labels=range(4)), rel=1e-6)
    assert agreement.value == pytest.approx((predicted == dense.argmax(1)).mean())
    theirs, ours = (torch.log_softmax(torch.from_numpy(logits), 1) for logits in (dense, LOGITS))
    apart = torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    assert -np.log(fidelity.value) == pytest.approx(float(apart), rel=1e-6)
    for one in (f1, recall, likelihood, agreement, fidelity):
        assert 0 <= one.low < one.value < one.high <= 1 and one.split == "val"
    assert scoring.of(LOGITS, lambda: dense) == scoring.of(LOGITS, lambda: dense)  # the bootstrap draws the same


def test_intervals_narrow_with_the_images() -> None:
    def widths(times: int) -> list[float]:
        scoring = Scoring(("macro_f1", "loss"), np.tile(LABELS, times), NAMES)
        return [one.high - one.low for one in scoring.of(np.tile(LOGITS, (times, 1)))]

    for narrow, wide in zip(widths(16), widths(1), strict=True):
        assert narrow == pytest.approx(wide / 4, rel=0.25)


def test_a_perfect_model() -> None:
    scoring = Scoring(("macro_f1", "loss"), LABELS, NAMES)
    f1, likelihood = scoring.of(1000 * np.eye(4)[LABELS])
    assert f1.value == f1.low == f1.high == 1 and likelihood.value == likelihood.high == 1
    (one,) = Scoring(("loss",), LABELS[:1], NAMES).of(LOGITS[:1])
    assert one.low == one.value == one.high


def test_refusals() -> None:
    with pytest.raises(UnknownName, match="one of top1, top5, macro_f1"):
        metric_named("speed")
    with pytest.raises(UnknownName):
        metric_named("recall[]")
    with pytest.raises(DataError, match=r"names no class of the data, which has 4 classes \(a, b, c, never\)"):
        Scoring(("recall[d]",), LABELS, NAMES)
    with pytest.raises(DataError, match=r"no image for recall\[never\]"):
        Scoring(("recall[never]",), LABELS, NAMES)
    with pytest.raises(DataError, match="needs its predictions"):
        Scoring(("agreement",), LABELS, NAMES).of(LOGITS)

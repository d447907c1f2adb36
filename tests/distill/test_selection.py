from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.distill.trainer import SelectionMetric
from tavt_kit.errors import DataError, MeasurementError, UnknownName

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_macro_f1_and_recall_by_hand(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    logits = F.one_hot(torch.from_numpy(predicted), 6).double()
    scores = []
    for kind in set(truth) | set(predicted):
        hits = sum(t == p == kind for t, p in pairs)
        wrong = sum((t == kind) != (p == kind) for t, p in pairs)
        scores.append(2 * hits / (2 * hits + wrong))
    assert SelectionMetric("macro_f1", CLASSES).of(logits, truth) == pytest.approx(sum(scores) / len(scores))
    first = truth[0]
    share = (predicted[truth == first] == first).mean()
    assert SelectionMetric(f"recall[{CLASSES[first]}]", CLASSES).of(logits, truth) == pytest.approx(share)
    assert SelectionMetric("top1", CLASSES).of(logits, truth) == pytest.approx((truth == predicted).mean())


def test_top5_and_loss() -> None:
    logits = torch.tensor([[0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]])
    assert SelectionMetric("top5", CLASSES).of(logits, np.array([0, 4])) == 0.5
    assert SelectionMetric("top5", CLASSES[:3]).of(logits[:, :3], np.array([0, 2])) == 1.0
    expected = -(logits.double().log_softmax(1)[0, 0] + logits.double().log_softmax(1)[1, 4]) / 2
    assert SelectionMetric("loss", CLASSES).of(logits, np.array([0, 4])) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("accuracy", UnknownName, "one of top1, top5, macro_f1"),
        ("agreement", UnknownName, "one of top1, top5, macro_f1, .*, loss, got 'agreement'"),
        ("recall[cow]", DataError, "no class"),
        ("recall", UnknownName, "one of"),
    ],
)
def test_what_is_no_metric_is_refused(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        SelectionMetric(name, CLASSES)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(MeasurementError, match="not finite"):
        SelectionMetric("top1", CLASSES).of(torch.full((1, 6), float("nan")), np.array([0]))
    with pytest.raises(MeasurementError, match="no image"):
        SelectionMetric("recall[fox]", CLASSES).of(torch.zeros(1, 6), np.array([0]))


def test_what_is_better_goes_by_the_metric_and_of_equals_neither_is() -> None:
    top1, loss = SelectionMetric("top1", CLASSES), SelectionMetric("loss", CLASSES)
    assert top1.better(0.6, 0.5) and not top1.better(0.5, 0.5)
    assert loss.better(0.4, 0.5) and not loss.better(0.6, 0.5)

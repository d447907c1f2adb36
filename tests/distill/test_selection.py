from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.distill.trainer import Selection, SelectionMetric
from tavt_kit.errors import MeasurementError, TrainingError

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
    ("name", "said"), [("accuracy", "one of top1, top5, macro_f1"), ("recall[cow]", "no class"), ("recall", "one of")]
)
def test_what_is_no_metric_is_refused(name: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        SelectionMetric(name, CLASSES)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(MeasurementError, match="not finite"):
        SelectionMetric("top1", CLASSES).of(torch.full((1, 6), float("nan")), np.array([0]))
    with pytest.raises(MeasurementError, match="no image"):
        SelectionMetric("recall[fox]", CLASSES).of(torch.zeros(1, 6), np.array([0]))


def test_of_equals_the_first_stays_and_patience_runs_out() -> None:
    selection, metric = Selection(patience=2), SelectionMetric("top1", CLASSES)
    assert [selection.see(metric, value, step) for step, value in enumerate((0.5, 0.6, 0.6), 1)] == [True, True, False]
    assert (selection.step, selection.value, selection.exhausted) == (2, 0.6, False)
    again = Selection(patience=2)
    again.restore(selection.as_state())
    assert not again.see(metric, 0.1, 4) and again.exhausted and again.step == 2
    lower = Selection()
    assert [lower.see(SelectionMetric("loss", CLASSES), value, 1) for value in (0.5, 0.6, 0.4)] == [True, False, True]

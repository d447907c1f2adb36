"""What every metric of the catalogue keeps to, and that its users read the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tavt_kit.distill import trainer
from tavt_kit.errors import UnknownName
from tavt_kit.evaluation.metrics import METRICS, Metric, Predictions, Scoring, find_metric, metric_named

CLASSES = tuple("abcdefg")
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 7, 120)
DENSE = 8.0 * np.eye(7)[RNG.integers(0, 7, 120)]
EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))


def written(metric: Metric) -> str:
    return metric.name.replace("CLASS", "c")


def seen(strength: float, order: np.ndarray | None = None, *, against: np.ndarray = LABELS) -> Predictions:
    """Logits that point to the right classes, the stronger the surer."""
    logits = np.random.default_rng(1).normal(size=(120, 7)) + strength * np.eye(7)[against]
    order = np.arange(120) if order is None else order
    return Predictions(logits[order], LABELS[order], CLASSES.index("c"), DENSE[order])


@EVERY
def test_surer_is_better_by_its_own_direction(metric: Metric) -> None:
    truth = DENSE.argmax(1) if metric.needs == "dense" else LABELS
    weak, strong = (metric.of(seen(strength, against=truth)) for strength in (0.5, 8.0))
    assert metric.better(strong, weak) and not metric.better(weak, strong) and not metric.better(weak, weak)


@EVERY
def test_the_interval_holds_the_share_and_narrows(metric: Metric) -> None:
    one = metric.accuracy(seen(1.0), "val", written(metric) if metric.needs == "class" else None)
    assert 0 <= one.low <= one.value <= one.high <= 1 and one.split == "val" and 0 < one.n <= 120
    assert one.metric == metric_named(written(metric))
    many = metric.accuracy(seen(1.0, np.tile(np.arange(120), 9)), "val")
    assert many.value == pytest.approx(one.value) and many.high - many.low < one.high - one.low


@EVERY
def test_the_order_of_the_images_is_nothing(metric: Metric) -> None:
    shuffled = np.random.default_rng(2).permutation(120)
    assert metric.of(seen(1.0)) == pytest.approx(metric.of(seen(1.0, shuffled)))


@EVERY
def test_it_is_found_by_what_is_written_and_by_what_is_recorded(metric: Metric) -> None:
    name = written(metric)
    assert find_metric(name)[0] is metric is find_metric(metric_named(name))[0]
    for wrong in (f"{name}x", name.upper(), "", "recall[]", "recall", "recall[CLASS", "top1[c]"):
        with pytest.raises(UnknownName):
            find_metric(wrong)


@EVERY
def test_a_search_and_a_training_have_the_catalogues_figure(metric: Metric) -> None:
    name, given = written(metric), seen(1.0)
    scored = Scoring((name,), LABELS, CLASSES).of(given.logits, lambda: DENSE)
    assert [one.value for one in scored] == ([] if name == "top1" else [metric.share(metric.of(given))])
    if metric.needs != "dense":
        chosen = trainer.SelectionMetric(name, CLASSES)
        assert chosen.of(torch.from_numpy(given.logits), LABELS) == metric.of(given)
        assert chosen.better(1.0, 0.5) is metric.higher_is_better

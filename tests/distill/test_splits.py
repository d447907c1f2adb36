from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.distill import datasets as module
from tavt_kit.distill.common import evaluate_sweep, features
from tavt_kit.distill.datasets import Order, Undecoded, read_images
from tavt_kit.distill.options import DataOptions
from tavt_kit.errors import TrainingError
from tavt_kit.models.wrap import AdaptiveViT


def test_an_epoch_takes_every_image_once_and_the_next_in_another_order() -> None:
    order = Order(12, 4, seed=0)
    first = np.concatenate([order.of(step) for step in (1, 2, 3)])
    second = np.concatenate([order.of(step) for step in (4, 5, 6)])
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second)


def test_an_incomplete_batch_is_left_out_but_not_always_the_same_images() -> None:
    order = Order(10, 4, seed=0)
    epochs = [frozenset(np.concatenate([order.of(2 * e + 1), order.of(2 * e + 2)]).tolist()) for e in range(20)]
    assert all(len(epoch) == 8 for epoch in epochs)
    assert frozenset.union(*epochs) == frozenset(range(10))


def test_any_step_can_be_asked_for_without_those_before_it() -> None:
    walked = Order(10, 3, seed=5)
    steps = [walked.of(step).tolist() for step in range(1, 30)]
    assert [Order(10, 3, seed=5).of(step).tolist() for step in range(1, 30)] == steps
    assert Order(10, 3, seed=6).of(1).tolist() != steps[0]


@pytest.mark.parametrize("batch", [0, 11])
def test_a_batch_that_cannot_be_is_refused(batch: int) -> None:
    with pytest.raises(TrainingError, match="1 to 10"):
        Order(10, batch, seed=0)


def test_inputs_are_those_of_evaluation(images: ImageSet) -> None:
    preprocessing = Preprocessing((64, 64))
    found = read_images(images.split("val"), preprocessing)
    assert len(found) == len(images.split("val")) == len(found.names)
    for place, sample in enumerate(images.split("val")):
        assert found.names[place] == str(sample.path) and found.labels[place] == sample.label
        np.testing.assert_array_equal(
            found.inputs(found.pixels[place : place + 1])[0],
            normalise(resize_crop(open_image(sample.path), preprocessing), preprocessing),
        )


def test_a_split_is_evaluated_alike_from_memory_and_files(
    images: ImageSet, make_model: Callable[..., AdaptiveViT], monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = Preprocessing((64, 64))
    held = read_images(images.split("val"), preprocessing)
    monkeypatch.setattr(module, "HELD_BYTES", 12 * 3 * 64 * 64 - 1)  # one byte too few
    lazily = read_images(images.split("val"), preprocessing)
    assert isinstance(held.pixels, np.ndarray) and isinstance(lazily.pixels, Undecoded)
    model = make_model()
    points = {"taper": TokenSchedule.taper(model.layout, 0.2)}
    rights = [evaluate_sweep(model, split, points)[0].correct for split in (held, lazily)]
    assert all((right == rights[0]).all() for right in rights)
    seen = [features(model, split) for split in (held, lazily)]
    assert all((found == seen[0]).all() for found in seen)


def test_training_and_evaluation_see_a_split_each_in_their_own_way(images: ImageSet) -> None:
    preprocessing = Preprocessing((64, 64))
    reading = DataOptions(resize=(80, 96), crop="random").settled(preprocessing)
    split = read_images(images.split("train"), preprocessing, reading, limit=5)
    assert split.prepared is not None and split.prepared[0].shape == (3, 80, 96)
    image = open_image(Path(split.names[1]))
    np.testing.assert_array_equal(split.pixels[1:2][0], resize_crop(image, preprocessing))
    assert split.classes == 3 and len(split) == 5

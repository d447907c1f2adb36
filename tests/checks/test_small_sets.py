"""Whether a file is taken that few labelled images cannot decide: how often wrongly, and what a user is told."""

from __future__ import annotations

import numpy as np
import pytest

from tavt_kit.checks import Answers
from tavt_kit.checks.small_sets import decide

CLASSES, CROWD, DRAWN = 20, 30_000, 100


def crowd(seed: int, noise: float, believed: float, broken: float) -> Answers:
    """Images with answers: the source is right as often as it is sure where ``believed`` is 1, and surer above.

    Args:
        noise: How far the file's logits are off.
        broken: Share of the images to which the file answers at random.
    """
    rng = np.random.default_rng(seed)
    truth = 2 * rng.normal(size=(CROWD, CLASSES))
    truth[np.arange(CROWD), rng.integers(CLASSES, size=CROWD)] += 2 * rng.gamma(2, 1, size=CROWD)
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
    file = truth + noise * rng.normal(size=truth.shape)
    rows = rng.random(CROWD) < broken
    file[rows] = rng.normal(size=(int(rows.sum()), CLASSES))
    return Answers(labels, believed * truth, file)


def some(answers: Answers, rng: np.random.Generator, n: int) -> Answers:
    rows = rng.integers(CROWD, size=n)
    return Answers(answers.labels[rows], answers.source[rows], answers.artifact[rows])


def known(part: Answers) -> Answers:
    """The same as training images: both models are sure of the label."""
    sure = 6 * np.eye(CLASSES)[part.labels]
    return Answers(part.labels, part.source + sure, part.artifact + sure)


@pytest.mark.parametrize("believed", [1.0, 1.4])
@pytest.mark.parametrize(
    ("noise", "broken", "unlabelled", "drop", "at_least", "at_most"),
    [
        (0.10, 0.0, 0, 2.0, 0.7, 1.0),  # a good file, 3 % of its answers differ: 500 images are enough for 2 points
        (0.10, 0.0, 850, 1.0, 0.65, 1.0),  # and 850 without labels for 1
        (0.56, 0.0, 0, 2.0, 0.0, 0.05),  # it loses 2.3 points
        (0.36, 0.0, 850, 1.0, 0.0, 0.05),  # it loses 1
        (0.05, 0.037, 0, 2.0, 0.0, 0.05),  # it is useless on a few images: 2 points
        (0.05, 0.019, 850, 1.0, 0.0, 0.05),
    ],
)
def test_a_bad_file_is_hardly_ever_taken_and_a_good_one_is(
    believed: float, noise: float, broken: float, unlabelled: int, drop: float, at_least: float, at_most: float
) -> None:
    """75 images of test, 75 of val and 350 of training, drawn a hundred times."""
    rng, all_ = np.random.default_rng(1), crowd(0, noise, believed, broken)
    lost = -100 * all_.against(all_.source).difference
    assert (lost > 0.95 * drop) == (at_most < 1), lost
    taken = 0
    for _ in range(DRAWN):
        parts = {"test": some(all_, rng, 75), "val": some(all_, rng, 75), "train": known(some(all_, rng, 350))}
        if unlabelled:
            parts["unlabelled"] = some(all_, rng, unlabelled)
        taken += decide(parts, drop / 100).taken
    assert at_least <= taken / DRAWN <= at_most, taken


def test_the_sentence_says_what_to_do() -> None:
    rng, good = np.random.default_rng(2), crowd(0, 0.1, 1.0, 0.0)
    parts = {"test": some(good, rng, 75), "val": some(good, rng, 75), "train": known(some(good, rng, 350))}
    taken, kept = decide(parts, 0.03), decide(parts, 0.01)
    assert taken.taken and taken.sentence.startswith("take it: it answers as its source on 9")
    assert "of 150 images that it was not trained on" in taken.sentence.replace("the model", "it")
    assert not kept.taken and kept.sentence.startswith("keep the source, or tolerate ")
    most, more = kept.sentence.split("tolerate ")[1].split()[0], kept.sentence.split("some ")[1].split()[0]
    assert decide(parts, float(most) / 100).taken
    least = decide(parts, 0.01, proven=0.0118)  # the labels alone would pass less than that
    assert float(most) > 1.2 and least.sentence.startswith("keep the source, or tolerate 1.2 points")
    assert 100 < int(more.replace(",", "")) < 5000
    assert "unlabelled" not in decide(parts, 0.001).sentence  # it differs too often for any number of them
    lost = Answers(parts["test"].labels, parts["test"].source, parts["test"].artifact.copy())
    right = np.flatnonzero(lost.source.argmax(1) == lost.labels)[:4]
    lost.artifact[right] = np.roll(lost.source[right], 1, axis=1)
    assert "labelled images" in decide({**parts, "test": lost}, 0.02).sentence
    lost.artifact[:] = np.nan
    assert not decide({"test": parts["test"], "unlabelled": lost}, 0.5).taken

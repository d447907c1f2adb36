"""Where a count stands and which colour it has, and that a matrix of any size is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.data.images import Sample
from tavt_kit.evaluation.answers import Answered
from tavt_kit.evaluation.drawing import draw_confusion
from tavt_kit.evaluation.record import summarise_answers


def record(size: int, *, wrong: bool = False) -> dict:  # type: ignore[type-arg]
    labels = np.arange(size)
    said = np.roll(labels, 1) if wrong else labels
    samples = tuple(Sample(Path(f"{label}.png"), int(label)) for label in labels)
    names = [f"a long name of class {i} that does not end" for i in range(size)]
    return summarise_answers(Answered(samples, 3 * np.eye(size, dtype=np.float32)[said]), names, "test", str)


def share(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(axis=2).sum())


@pytest.mark.parametrize("size", [2, 8, 30, pytest.param(300, marks=pytest.mark.slow)])
def test_right_is_green_and_wrong_orange(size: int) -> None:
    image, other = draw_confusion(record(size)), draw_confusion(record(size, wrong=True))
    legend = 16 * 14
    assert max(image.size) <= 2700
    assert share(image, (11, 110, 117)) > legend and share(image, (196, 74, 22)) <= legend
    assert share(other, (196, 74, 22)) > legend and share(other, (11, 110, 117)) <= legend


def test_rows_are_the_truth() -> None:
    """Class 0 is taken for class 1: the cell lies to the right of the diagonal's first, not below it."""
    figures = record(4)
    figures["confusion"] = [[0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    pixels = np.asarray(draw_confusion(figures)) == (196, 74, 22)
    rows, columns = np.nonzero(pixels.all(axis=2)[:-40])
    blank = np.asarray(draw_confusion(record(4)))
    green_rows, green_columns = np.nonzero((blank == (11, 110, 117)).all(axis=2)[:-40])
    assert rows.min() == green_rows.min() and columns.min() > green_columns.min() + 20

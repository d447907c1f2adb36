from __future__ import annotations

import math

import pytest

from tavt_kit.distill.options import LearningRate
from tavt_kit.errors import TrainingError, UnknownName


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_it_rises_to_the_base_and_never_rises_again(decay: str, warmup: int) -> None:
    rate = LearningRate(0.3, warmup, 40, decay)
    values = [rate.at(update) for update in range(41)]
    assert max(values) == pytest.approx(0.3)
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[warmup] == 0.3
    if warmup < 40:
        assert values[-1] == pytest.approx(0.3 if decay == "constant" else 0.0)


def test_it_starts_and_ends_where_it_is_told_and_cools_down() -> None:
    rate = LearningRate(1.0, 4, 20, "linear", start=0.2, final=0.1, cooldown=6)
    assert [round(rate.at(update), 6) for update in (0, 1, 2, 4, 9, 14, 17, 20)] == [
        0.2, 0.4, 0.6, 1.0, 0.55, 0.1, 0.1, 0.1
    ]  # fmt: skip
    for wrong in ({"start": 2.0}, {"final": 2.0}, {"final": -1.0}, {"cooldown": 17}, {"cooldown": -1}):
        with pytest.raises(TrainingError):
            LearningRate(1.0, 4, 20, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "warmup", "total", "decay"),
    [
        (0.0, 1, 5, "cosine"),
        (-1.0, 1, 5, "cosine"),
        (math.nan, 1, 5, "cosine"),
        (math.inf, 1, 5, "cosine"),
        (0.1, 6, 5, "cosine"),
        (0.1, -1, 5, "cosine"),
        (0.1, 0, 0, "cosine"),
    ],
)
def test_what_cannot_be_is_refused(base: float, warmup: int, total: int, decay: str) -> None:
    with pytest.raises(TrainingError):
        LearningRate(base, warmup, total, decay)
    with pytest.raises(UnknownName):
        LearningRate(0.1, 0, 5, "steps")

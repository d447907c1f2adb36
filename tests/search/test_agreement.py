"""Ranks of a quick evaluator against the exact one."""

from __future__ import annotations

import numpy as np
import pytest

from tavt_kit.errors import MeasurementError
from tests.test_studies import study

agreement = study("search_agreement").agreement


def test_the_same_ranks_are_full_agreement() -> None:
    costs, exact = [3, 1, 2, 4], [0.7, 0.5, 0.65, 0.6]
    found = agreement(costs, exact, [value - 0.1 for value in exact])
    assert (found.tau, found.overlap, found.kept, found.schedules) == (1.0, 1.0, 1.0, 4)
    assert found.largest == pytest.approx(0.1)


def test_what_a_wrong_front_would_lose() -> None:
    found = agreement([1, 2], [0.5, 0.8], [0.6, 0.4])  # the quick one leaves the better schedule out
    assert found.tau == -1.0 and found.overlap == 0.5
    # Areas up to a cost of 4: 0.5 * 3 / 4 of 0.5 * 1 / 4 + 0.8 * 2 / 4.
    assert found.kept == pytest.approx(0.375 / 0.525)


def test_noise_lowers_the_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    exact = rng.random(40)
    costs = rng.random(40) + exact
    near, far = (agreement(costs, exact, exact + rng.normal(0, noise, 40)).tau for noise in (0.01, 0.3))
    assert near > 0.9 > 0.7 > far


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        (([1], [0.5], [0.5]), "two schedules"),
        (([1, 2], [0.5, 0.6], [0.5]), "2, 2 and 1"),
        (([1, 2], [0.5, 0.5], [0.5, 0.6]), "no ranks"),
    ],
)
def test_bad_input(lists: tuple[list[float], ...], says: str) -> None:
    with pytest.raises(MeasurementError, match=says):
        agreement(*lists)

from __future__ import annotations

import math
from operator import eq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.core.accuracy import Accuracy, PairedDifference, bits_text
from tavt_kit.errors import MeasurementError

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
discordant = st.integers(1, 200).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, n - b), st.just(n)))
)


def test_wilson_against_the_printed_example() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for correct, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        found = Accuracy.of_counts(correct, n, split="val")
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert Accuracy.of_counts(1, 29, split="val").high == pytest.approx(0.1718, abs=5e-5)


@given(counts)
def test_an_accuracy_lies_in_its_interval_and_survives_its_record(pair: tuple[int, int]) -> None:
    found = Accuracy.of_counts(*pair, split="test")
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert Accuracy.from_record(found.as_record()) == found


@pytest.mark.parametrize(("correct", "n"), [(1, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_refused(correct: int, n: int) -> None:
    with pytest.raises(MeasurementError):
        Accuracy.of_counts(correct, n, split="val")


def test_nan_and_crooked_intervals_are_refused() -> None:
    with pytest.raises(MeasurementError):
        Accuracy("top1", "val", float("nan"), 5, 0.0, 1.0)
    with pytest.raises(MeasurementError):
        Accuracy("top1", "val", 0.5, 5, 0.6, 0.9)


def score_by_search(difference: float, gained: int, lost: int, n: int) -> float:
    """The score statistic with the nuisance share found by brute force instead of Tango's closed form."""
    lows = np.linspace(max(0.0, -difference), (1 - abs(difference)) / 2 + max(0.0, -difference), 200_001)[1:-1]
    ups = lows + difference  # share of "only the candidate is right"
    rest = 1 - lows - ups
    valid = (ups > 0) & (rest > 0)
    likelihood = np.full_like(lows, -np.inf)
    likelihood[valid] = (
        gained * np.log(ups[valid]) + lost * np.log(lows[valid]) + (n - gained - lost) * np.log(rest[valid])
    )
    best = int(np.argmax(likelihood))
    variance = n * (ups[best] + lows[best] - difference**2)
    return float((gained - lost - n * difference) / math.sqrt(variance))


@pytest.mark.parametrize(("gained", "lost", "n"), [(9, 2, 200), (3, 12, 60), (1, 0, 30), (20, 20, 656)])
def test_tangos_interval_ends_where_the_score_test_refuses(gained: int, lost: int, n: int) -> None:
    found = PairedDifference.of_counts(gained, lost, n)
    assert score_by_search(found.low, gained, lost, n) == pytest.approx(1.96, abs=0.01)
    assert score_by_search(found.high, gained, lost, n) == pytest.approx(-1.96, abs=0.01)


def test_no_flip_is_not_certainty() -> None:
    found = PairedDifference.of_counts(0, 0, 656)
    assert found.high == pytest.approx(1.96**2 / (656 + 1.96**2), rel=1e-3)
    assert found.low == pytest.approx(-found.high)


@given(discordant)
def test_difference_lies_in_its_interval_and_is_antisymmetric(triple: tuple[int, int, int]) -> None:
    gained, lost, n = triple
    found, mirrored = PairedDifference.of_counts(gained, lost, n), PairedDifference.of_counts(lost, gained, n)
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert found.low < found.high
    assert found.low == pytest.approx(-mirrored.high, abs=1e-9)
    assert PairedDifference.from_record(found.as_record()) == found


def test_coverage_is_about_95_in_100() -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(120, (0.05, 0.10, 0.85), size=3000)
    hits = 0
    found = {(b, c): PairedDifference.of_counts(int(b), int(c), 120) for b, c, _ in set(map(tuple, draws))}
    for b, c, _ in draws:
        hits += found[b, c].low <= -0.05 <= found[b, c].high
    assert 0.93 <= hits / 3000 <= 0.975


def test_predictions_are_compared_image_by_image() -> None:
    def compared(truth: list[int], *said: list[int]) -> PairedDifference:
        return PairedDifference.of_bits(*(bits_text(map(eq, truth, labels)) for labels in said))

    truth = [0, 1, 2, 0, 1]
    source, candidate = [0, 1, 0, 1, 2], [0, 2, 2, 1, 2]
    found = compared(truth, source, candidate)
    assert (found.gained, found.lost, found.n, found.flips) == (1, 1, 5, 2)
    found = compared([0, 1, 2, 0], [1, 1, 0, 2], [0, 0, 2, 1])  # two gained, one lost
    assert (found.gained, found.lost, found.difference) == (2, 1, 0.25)
    assert PairedDifference.of_counts(9, 2, 200).difference == pytest.approx(7 / 200)
    with pytest.raises(MeasurementError, match="same images"):
        compared(truth, source, candidate[:-1])
    with pytest.raises(MeasurementError):
        PairedDifference.of_counts(3, 3, 5)

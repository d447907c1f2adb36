"""The statistics of ``compare`` on made-up times whose truth is known."""

from __future__ import annotations

import math
import random

import pytest

from tavt_kit.comparison import comparison
from tavt_kit.comparison.comparison import (
    Estimate,
    accuracy_change,
    bounded_time,
    judge_loss,
    judge_slowdown,
    paired_accuracy_change,
    time_change,
)
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.budget import Verdict
from tavt_kit.core.latency_bounds import DOUBT
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import MeasurementError


def run(ms: float, pace: list[float], rng: random.Random) -> Measurement:
    """One round of three runs for each pace of the machine, with 1 % of jitter."""
    samples = [ms * level * rng.uniform(0.99, 1.01) for level in pace for _ in range(3)]
    return Measurement(tuple(samples), True, (3,) * len(pace))


def paces(rng: random.Random, rounds: int = 25) -> list[float]:
    """A noisy machine: up to half slower, for three rounds at a time."""
    return [level for _ in range(rounds // 3 + 1) for level in [rng.uniform(1, 1.5)] * 3][:rounds]


def test_pairs_take_out_what_slows_both() -> None:
    rng, hit = random.Random(0), 0
    for _ in range(8):
        pace = paces(rng)
        one, twin, slow = (run(ms, pace, rng) for ms in (8.0, 8.0, 8.8))
        equal, found = bounded_time(twin, one), bounded_time(slow, one)
        hit += equal.low <= 1 <= equal.high
        assert judge_slowdown(equal, 0.03) is Verdict.PASS and abs(equal.value - 1) < 0.03
        assert found.low > 1.05 and judge_slowdown(found, 0.05) is Verdict.FAIL
    assert hit >= 6


def test_unpaired_intervals_hold_the_truth_and_know_their_width() -> None:
    rng, hit = random.Random(1), 0
    for _ in range(8):
        change = time_change(run(8.0, paces(rng, 40), rng), run(8.8, paces(rng, 40), rng))
        hit += change.low <= 1.1 <= change.high
        assert change.high - change.low > 0.03  # an interval of medians by single runs would be far too sure
    assert hit >= 6
    quiet = time_change(run(8.0, [1.0] * 20, rng), run(8.8, [1.0] * 20, rng))
    assert 1.08 < quiet.low <= quiet.value <= quiet.high < 1.12


def test_a_reference_takes_the_machines_pace_out() -> None:
    rng = random.Random(2)
    day, other = paces(rng), [4 * pace for pace in paces(rng)]
    before, after = run(8.0, day, rng), run(8.0, other, rng)
    assert judge_slowdown(time_change(before, after), 0.05) is Verdict.FAIL  # the machine, not the candidate
    change = time_change(before, after, (run(20.0, day, rng), run(20.0, other, rng)))
    assert judge_slowdown(change, 0.05) is Verdict.PASS and abs(change.value - 1) < 0.02


def test_too_few_rounds_decide_nothing() -> None:
    rng = random.Random(3)
    change = time_change(run(8.0, [1.0] * 5, rng), run(80.0, [1.0] * 50, rng))
    assert not change.sure and (change.low, change.high) == (0.0, math.inf)
    assert judge_slowdown(change, 0.05) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.051, 1.2, "FAIL"), (1.04, 1.06, "INCONCLUSIVE"), (1.01, 1.05, "PASS"), (0.5, 0.6, "PASS")],
)
def test_verdicts_of_times(low: float, high: float, verdict: str) -> None:
    assert judge_slowdown(Estimate((low + high) / 2, low, high), 0.05) == verdict


def test_summaries_and_accuracies() -> None:
    narrow, wide = Estimate(10.0, 9.9, 10.1), Estimate(11.0, 9.0, 13.0)
    change = time_change(narrow, wide)
    assert change.value == pytest.approx(1.1) and change.low < 1 < change.high
    assert time_change(narrow, Estimate(11.0, 10.9, 11.1)).low > 1.05
    with pytest.raises(MeasurementError, match="low <= median"):
        comparison._time({"median": 10.0, "interval95": [11.0, 12.0]})
    before, after = (Accuracy.of_counts(right, 525, split="test") for right in (380, 330))
    lost = accuracy_change(before, after)
    # Clopper and Pearson at 2.5 % a side, from scipy: 380 of 525 in [.6835, .7617], 330 in [.5857, .6701].
    assert (lost.value, lost.low, lost.high) == pytest.approx((-0.0952, -0.1760, -0.0134), abs=2e-4)
    assert judge_loss(lost, 0.005) is Verdict.FAIL and judge_loss(lost, 0.1) is Verdict.INCONCLUSIVE
    assert judge_loss(accuracy_change(after, before), 0.005) is Verdict.PASS


def test_images_that_both_records_know_are_paired() -> None:
    """Ten of a thousand lost: as of different images nothing is known, image by image it is 0.3 to 1.9 points."""
    before, after = "1" * 900 + "0" * 100, "1" * 890 + "0" * 110
    paired = paired_accuracy_change(before, after)
    bounds = PairedDifference.of_counts(0, 10, 1000).bounds(DOUBT)  # what a verdict on ``drop`` goes by
    assert (paired.low, paired.high) == bounds and paired.value == -0.01
    assert judge_loss(paired, 0.02) is Verdict.PASS and judge_loss(paired, 0.003) is Verdict.FAIL
    apart = accuracy_change(*(Accuracy.of_counts(bits.count("1"), 1000, split="val") for bits in (before, after)))
    assert judge_loss(apart, 0.02) is Verdict.INCONCLUSIVE and judge_loss(apart, 0.003) is Verdict.INCONCLUSIVE
    with pytest.raises(MeasurementError, match="same images"):
        paired_accuracy_change(before, after[1:])


def test_runs_that_follow_one_another_say_less() -> None:
    """A machine that drifts by 8 % within each run: samples taken as independent would call a twin slower."""
    drift = [1 + 0.08 * place / 200 for place in range(200)]
    one, twin = (Measurement(tuple(ms * pace for pace in drift), True) for ms in (10.0, 10.4))
    change = time_change(one, twin)
    assert change.low < 1 < change.high and judge_slowdown(change, 0.05) is Verdict.INCONCLUSIVE
    shaky = Measurement((10.0, *[10.5] * 99), False)
    assert time_change(shaky, Measurement((10.5,) * 100, True)).high == pytest.approx(1.05)

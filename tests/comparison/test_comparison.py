"""The statistics of ``compare`` on made-up times whose truth is known."""

from __future__ import annotations

import random

import pytest

from tavt_kit.comparison.comparison import (
    Estimate,
    Summary,
    accuracy_change,
    judge_loss,
    judge_slowdown,
    paired_change,
    relative_change,
    summary_change,
    unpaired_change,
)
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Verdict
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
        equal, found = paired_change(one, twin), paired_change(one, slow)
        hit += equal.low <= 1 <= equal.high
        assert judge_slowdown(equal, 0.03) is Verdict.PASS and abs(equal.value - 1) < 0.03
        assert found.low > 1.05 and judge_slowdown(found, 0.05) is Verdict.FAIL
    assert hit >= 6


def test_unpaired_intervals_hold_the_truth_and_know_their_width() -> None:
    rng, hit = random.Random(1), 0
    for _ in range(8):
        change = unpaired_change(run(8.0, paces(rng, 40), rng), run(8.8, paces(rng, 40), rng))
        hit += change.low <= 1.1 <= change.high
        assert change.high - change.low > 0.03  # an interval of medians by single runs would be far too sure
    assert hit >= 6
    quiet = unpaired_change(run(8.0, [1.0] * 20, rng), run(8.8, [1.0] * 20, rng))
    assert 1.08 < quiet.low <= quiet.value <= quiet.high < 1.12


def test_a_reference_takes_the_machines_pace_out() -> None:
    rng = random.Random(2)
    day, other = paces(rng), [1.3 * pace for pace in paces(rng)]
    before, after = run(8.0, day, rng), run(8.0, other, rng)
    assert judge_slowdown(unpaired_change(before, after), 0.05) is Verdict.FAIL  # the machine, not the candidate
    change = relative_change(before, after, run(20.0, day, rng), run(20.0, other, rng))
    assert judge_slowdown(change, 0.05) is Verdict.PASS and abs(change.value - 1) < 0.02


def test_too_few_rounds_decide_nothing() -> None:
    rng = random.Random(3)
    change = unpaired_change(run(8.0, [1.0] * 5, rng), run(80.0, [1.0] * 50, rng))
    assert not change.sure and change.low == change.value == change.high
    assert judge_slowdown(change, 0.05) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.051, 1.2, "FAIL"), (1.04, 1.06, "INCONCLUSIVE"), (1.01, 1.05, "PASS"), (0.5, 0.6, "PASS")],
)
def test_verdicts_of_times(low: float, high: float, verdict: str) -> None:
    assert judge_slowdown(Estimate((low + high) / 2, low, high), 0.05) == verdict


def test_summaries_and_accuracies() -> None:
    narrow, wide = Summary(10.0, 9.9, 10.1), Summary(11.0, 9.0, 13.0)
    change = summary_change(narrow, wide)
    assert change.value == pytest.approx(1.1) and change.low < 1 < change.high
    assert summary_change(narrow, Summary(11.0, 10.9, 11.1)).low > 1.05
    with pytest.raises(MeasurementError, match="low <= median"):
        Summary(10.0, 11.0, 12.0)
    before, after = (Accuracy.of_counts(right, 525, split="test") for right in (380, 330))
    lost = accuracy_change(before, after)
    # Newcombe's method 10 by hand: p = .7238 [.6840, .7603] and .6286 [.5865, .6688].
    assert (lost.value, lost.low, lost.high) == pytest.approx((-0.0952, -0.1510, -0.0386), abs=2e-4)
    assert judge_loss(lost, 0.005) is Verdict.FAIL and judge_loss(lost, 0.1) is Verdict.INCONCLUSIVE
    assert judge_loss(accuracy_change(after, before), 0.005) is Verdict.PASS

"""Bootstrap intervals of paired ratios, against ratios that are known."""

from __future__ import annotations

import numpy as np

from tavt_kit.core.measurement import METHOD, Measurement, bootstrap_ratio, paired_ratio


def rounds(rng: np.random.Generator, ms: float, levels: np.ndarray) -> Measurement:
    """Three samples a round, at the round's own level of noise."""
    times = ms * levels[:, None] * (1 + 0.02 * rng.standard_normal((len(levels), 3)))
    return Measurement(tuple(times.ravel()), True, (3,) * len(levels))


def test_the_interval_holds_the_truth_about_95_times_in_100_though_the_machine_changes_its_level() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        levels = 1 + rng.random(12)
        found = bootstrap_ratio(rounds(rng, 11.0, levels), rounds(rng, 10.0, levels))
        held += found.low <= 1.1 <= found.high
        assert found.high - found.low < 0.15  # the levels alone, unpaired, would spread over a factor of two
    assert 86 <= held <= 99


def test_the_value_is_that_of_the_paired_ratio_and_the_seed_decides_the_interval() -> None:
    rng = np.random.default_rng(1)
    levels = 1 + rng.random(10)
    slow, fast = rounds(rng, 12.0, levels), rounds(rng, 10.0, levels)
    one, again, other = (bootstrap_ratio(slow, fast, seed=seed) for seed in (0, 0, 5))
    assert one == again and one.value == other.value == paired_ratio(slow, fast).value
    assert one.method == METHOD and one.word == "faster" and bootstrap_ratio(fast, slow).word == "slower"


def test_twins_are_inconclusive_and_few_rounds_give_their_range() -> None:
    a = Measurement((10.0, 11.0, 10.0, 9.0), True)
    b = Measurement((10.0, 10.0, 11.0, 10.0), True)
    found = bootstrap_ratio(a, b)
    assert (found.low, found.high) == (0.9, 1.1) and "too few" in found.method
    assert found.word == "INCONCLUSIVE"

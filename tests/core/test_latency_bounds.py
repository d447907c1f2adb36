"""Bounds of quantiles keep their promise for runs that remember one another."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import NormalDist

import pytest

from tavt_kit.core.latency_bounds import LEAST_RUNS, effective_runs, latency_bounds, quantile_bounds
from tavt_kit.core.measurement import Measurement, percentile
from tests.parameters import few

ROOT = Path(__file__).resolve().parents[2]
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def series(rng: random.Random, n: int, memory: float) -> list[float]:
    """Times in ms whose logarithms, in standard deviations, are AR(1) of this coefficient."""
    value, found = rng.gauss(0, 1), list[float]()
    for _ in range(n):
        found.append(20 * math.exp(0.03 * value))
        value = memory * value + math.sqrt(1 - memory**2) * rng.gauss(0, 1)
    return found


def true(quantile: float) -> float:
    return 20 * math.exp(0.03 * NormalDist().inv_cdf(quantile))


@pytest.mark.parametrize("memory", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("n", few([30, 60, 400], 60))
def test_each_bound_is_wrong_at_most_once_in_twenty(memory: float, n: int) -> None:
    """Of 400 series more than 30 wrong ones would be 5 % by chance less than once in a hundred times."""
    rng, drawn = random.Random(n), 400
    wrong = {name: [0, 0] for name in QUANTILES}
    for _ in range(drawn):
        samples = series(rng, n, memory)
        for name, quantile in QUANTILES.items():
            low, high = quantile_bounds(samples, quantile)
            wrong[name][0] += high < true(quantile)
            wrong[name][1] += n >= 400 and low > true(quantile)
    assert max(most for each in wrong.values() for most in each) <= 30, wrong


@pytest.mark.slow
def test_the_bound_of_one_of_300_is_wrong_at_most_once_in_6000() -> None:
    """Two of 12,000 series are expected to be wrong, more than seven once in 900 times; long memory hides best."""
    rng, wrong = random.Random(3), 0
    for _ in range(12_000):
        samples = series(rng, 200, 0.9)
        if sum(sample <= true(0.5) for sample in samples) > 124:  # else the median's bound cannot be below it
            wrong += quantile_bounds(samples, 0.5, 0.05 / 300)[1] < true(0.5)
    assert wrong <= 7


@pytest.mark.parametrize(("memory", "n"), few([(0.0, 1000), (0.3, 1000), (0.6, 3000)], (0.3, 1000)))
def test_five_percent_inside_is_seen_within_a_minute(memory: float, n: int) -> None:
    """At 20 ms a minute is 3,000 runs; four of five quiet series are to pass."""
    rng, drawn = random.Random(1), 60
    for quantile in QUANTILES.values():
        highest = [quantile_bounds(series(rng, n, memory), quantile)[1] for _ in range(drawn)]
        assert sum(high <= 1.05 * true(quantile) for high in highest) >= 0.8 * drawn


def test_stored_series_in_thirds() -> None:
    """The bound of a third, judged as the protocol would, is not below the same quantile of the rest."""
    wrong, judged = 0, 0
    for name in ("benchmarks/results/amd-epyc-2-cpus.json", "examples/studies/results/merging-times-65.json"):
        for row in json.loads((ROOT / name).read_text(encoding="utf-8"))["candidates"]:
            whole = Measurement.from_record(row["latency_ms"])
            number = len(whole.rounds)
            for part in range(3):
                first, last = (sum(whole.rounds[: number * end // 3]) for end in (part, part + 1))
                rounds = whole.rounds[number * part // 3 : number * (part + 1) // 3]
                own = Measurement(whole.samples[first:last], True, rounds)
                if own.relative_half_width > 0.01 or len(rounds) < 6:
                    own = Measurement(own.samples, False, rounds)
                rest = whole.samples[:first] + whole.samples[last:]
                for statistic, quantile in QUANTILES.items():
                    judged += 1
                    wrong += latency_bounds(own, statistic)[1] < percentile(rest, quantile)
    assert judged >= 100 and wrong <= 0.05 * judged


def test_a_drift_counts_as_few_runs_and_shuffled_runs_as_many() -> None:
    drift = [1.0 + i / 1000 for i in range(1000)]
    shuffled = random.Random(0).sample(drift, 1000)
    assert effective_runs(drift, 0.9) < 10 and effective_runs(shuffled, 0.9) > 500
    assert quantile_bounds(drift, 0.9)[1] == pytest.approx(2 * 1.999 - 1)


def test_enough_samples_for_an_upper_bound() -> None:
    assert quantile_bounds([1.0] * 28, 0.9)[1] == math.inf
    assert quantile_bounds([1.0] * 29, 0.9)[1] == 1.0
    assert quantile_bounds([1.0] * 5000, 0.99) == (1.0, 1.0)
    few = [1.0 + 7 * i % 39 / 39 for i in range(LEAST_RUNS - 1)]
    assert quantile_bounds(few, 0.5) == (1.0, 2 * max(few) - 1.0)  # memory cannot be told of so few
    assert quantile_bounds(few, 0.99) == (1.0, math.inf)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.core.measurement import Measurement, median_ranks, paired_ratio, percentile
from tavt_kit.errors import MeasurementError, RecordError

times = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=60)


@given(times)
def test_views_are_numpys(samples: list[float]) -> None:
    found = Measurement(tuple(samples), True)
    assert found.median == pytest.approx(float(np.median(samples)))
    for share, view in ((10, found.p10), (90, found.p90), (99, found.p99)):
        assert view == pytest.approx(float(np.percentile(samples, share)))
    quarter, three = np.percentile(samples, [25, 75])
    assert found.spread == pytest.approx((three - quarter) / np.median(samples))
    low, high = found.interval95
    assert min(samples) <= low <= found.median <= high <= max(samples)


@given(times, st.booleans())
def test_the_record_gives_the_measurement_back(samples: list[float], steady: bool) -> None:
    rounded = tuple(max(round(sample, 6), 1e-6) for sample in samples)
    found = Measurement(rounded, steady, (len(samples),), 12.5, 3.25, 4)
    assert Measurement.from_record(found.as_record()) == found


@pytest.mark.parametrize("n", [6, 9, 17, 30, 101, 1000, 1001, 5000])
def test_the_median_is_inside_its_interval_95_times_in_100(n: int) -> None:
    low, high = median_ranks(n)
    assert low + high == n - 1
    draws = np.sort(np.random.default_rng(n).exponential(size=(4000, n)), axis=1)
    covered = np.mean((draws[:, low] <= np.log(2)) & (draws[:, high] >= np.log(2)))
    # At least 95 %, and not much more: one rank further in would cover too little.
    assert covered >= 0.94
    inside = np.mean((draws[:, low + 1] <= np.log(2)) & (draws[:, high - 1] >= np.log(2)))
    assert inside <= 0.955


def test_rounds_are_the_independent_units() -> None:
    # Ten rounds of fifty nearly equal samples: as samples the interval would be far too narrow.
    levels = [10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 10.8, 10.9]
    samples = [level + 0.0001 * i for level in levels for i in range(50)]
    by_round = Measurement(tuple(samples), True, (50,) * 10)
    assert by_round.interval95 == pytest.approx((10.1, 10.8), abs=0.01)
    alone = Measurement(tuple(samples), True)
    assert alone.interval95[1] - alone.interval95[0] < 0.3


def test_noise_that_outlasts_a_round_cancels_in_the_paired_ratio() -> None:
    rng = np.random.default_rng(0)
    noise = 1 + 3 * rng.random(40)  # up to four times slower, both alike
    one = Measurement(tuple(2.0 * noise), False)
    other = Measurement(tuple(1.0 * noise), False)
    ratio = paired_ratio(one, other)
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == (pytest.approx(2), pytest.approx(2), pytest.approx(2), 40)
    shuffled = paired_ratio(one, Measurement(tuple(rng.permutation(noise)), False))
    assert shuffled.high - shuffled.low > 0.3


def test_rounds_pair_by_their_medians() -> None:
    one = Measurement((4.0, 4.0, 40.0, 6.0), True, (3, 1))
    other = Measurement((2.0, 3.0), True, (1, 1))
    assert paired_ratio(one, other).value == 2.0


@pytest.mark.parametrize("samples", [(), (0.0,), (-1.0,), (float("nan"),), (float("inf"),)])
def test_no_time_is_no_measurement(samples: tuple[float, ...]) -> None:
    with pytest.raises(MeasurementError):
        Measurement(samples, True)


def test_rounds_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(MeasurementError, match="add up"):
        Measurement((1.0, 2.0), True, (3,))
    with pytest.raises(RecordError, match="samples"):
        Measurement.from_record({"steady": True})


def test_it_says_when_it_is_unsteady() -> None:
    assert str(Measurement((8.0,) * 60, True)) == "8 ms ± 0.0 % (n=60)"
    assert str(Measurement((8.0,) * 60, False)) == "8 ms, unsteady (n=60)"


def test_percentile_of_one_sample() -> None:
    assert percentile([7.0], 0.9) == 7.0

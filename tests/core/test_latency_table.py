from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_table import Curve, DropCell, HeldOut, LatencyTable, LayerCells, TimedModel
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError, ScheduleError

WIDTH, TOKENS, LAYERS = 64, 197, 12
GRID = (2, 5, 12, 30, 75, 120, 197)


def attend(n: float) -> float:
    return 0.1 + 1e-6 * n * (2 * WIDTH + n)


def drop(n: float, kept: float) -> float:
    return 0.2 + 1.5e-6 * n * (2 * WIDTH + n) + 2e-3 * kept


def feed(n: float) -> float:
    return 0.05 + 4e-3 * n


def last(n: float) -> float:
    return 0.08 + 1e-3 * n


def table(last_curve: Curve | None = None) -> LatencyTable:
    cells = LayerCells(
        attend=Curve(GRID, tuple(attend(n) for n in GRID), WIDTH),
        drop=tuple(DropCell(n, n // 2, drop(n, n // 2), n - 1, drop(n, n - 1)) for n in GRID[1:]),
        feed=Curve(GRID, tuple(feed(n) for n in GRID)),
        last=last_curve,
        stem_ms=0.7,
        head=Curve((1,), (0.3,)),
    )
    model = TimedModel("vit", TokenLayout(TOKENS, LAYERS, token_pooled=last_curve is not None))
    return LatencyTable(TargetDevice("openvino", "cpu", threads=2), model, cells)


TOKEN_POOLED = table(Curve(GRID, tuple(last(n) for n in GRID)))


def by_hand(counts: tuple[int, ...], pooled: bool) -> float:
    total, n = 1.0, TOKENS
    for layer, kept in enumerate(counts):
        if not pooled and layer == LAYERS - 1:
            total += last(n)
        else:
            total += (attend(n) if kept == n else drop(n, kept)) + feed(kept)
        n = kept
    return total


@pytest.mark.parametrize("pooled", [True, False])
def test_a_prediction_is_the_sum_of_what_the_lean_path_runs(pooled: bool) -> None:
    made = table() if pooled else TOKEN_POOLED
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = np.minimum.accumulate(rng.integers(12, TOKENS + 1, LAYERS))
        schedule = TokenSchedule(tuple(int(count) for count in counts))
        # The curves are interpolated in the work itself, so these costs are met exactly between the grid points.
        assert made.predict(schedule) == pytest.approx(by_hand(schedule.counts, pooled), rel=2e-3)


def test_the_parts_add_up_and_skipped_layers_cost_nothing() -> None:
    schedule = TokenSchedule.taper(TokenLayout(TOKENS, LAYERS), 0.2)
    parts = TOKEN_POOLED.parts(schedule)
    assert len(parts) == LAYERS + 2 and sum(parts) == pytest.approx(TOKEN_POOLED.predict(schedule))
    dense = TokenSchedule.dense(TokenLayout(TOKENS, LAYERS))
    skipping = TokenSchedule(dense.counts, executed=(0, 1, 2, 11))
    gone = TOKEN_POOLED.predict(dense) - TOKEN_POOLED.predict(skipping)
    assert gone == pytest.approx(8 * (attend(TOKENS) + feed(TOKENS)))


def test_the_last_drop_of_a_token_pooled_head_changes_nothing() -> None:
    schedule = TokenSchedule((*(150,) * 11, 90))
    assert TOKEN_POOLED.predict(schedule) == TOKEN_POOLED.predict(schedule.canonical())
    assert table().predict(schedule) != table().predict(schedule.canonical())


def test_calibration_takes_the_median_ratio() -> None:
    schedules = [TokenSchedule.taper(TokenLayout(TOKENS, LAYERS), ratio) for ratio in (0.0, 0.1, 0.2)]
    raw = [TOKEN_POOLED.predict(schedule) for schedule in schedules]
    fitted = TOKEN_POOLED.calibrated(zip(schedules, [1.1 * raw[0], 1.2 * raw[1], 9.0 * raw[2]], strict=True))
    assert fitted.scale == pytest.approx(1.2)
    assert fitted.predict(schedules[1]) == pytest.approx(1.2 * raw[1])
    assert TOKEN_POOLED.calibrated([]) == TOKEN_POOLED


def test_errors_on_held_out_schedules() -> None:
    schedule = TokenSchedule.dense(TokenLayout(TOKENS, LAYERS))
    held_out = HeldOut(schedule, 9.0, 10.0), HeldOut(schedule, 10.3, 10.0)
    tested = replace(TOKEN_POOLED, held_out=held_out)
    assert tested.mean_error == pytest.approx(0.065) and tested.worst_error == pytest.approx(0.1)
    held_out = HeldOut(schedule, 10.0, 12.0, drift=1.2), HeldOut(schedule, 10.0, 9.6, drift=0.8)
    slower = replace(TOKEN_POOLED, held_out=held_out)
    assert slower.mean_error == pytest.approx((0 + 1 / 6) / 2)
    assert slower.mean_raw_error == pytest.approx((1 / 6 + 1 / 24) / 2)
    assert TOKEN_POOLED.mean_error is None and TOKEN_POOLED.worst_error is None


def test_the_record_gives_the_table_back() -> None:
    full = replace(
        TOKEN_POOLED,
        held_out=(HeldOut(TokenSchedule.taper(TokenLayout(TOKENS, LAYERS), 0.3), 8.0, 9.0, False, 1.1),),
        host=HostFacts.gather(),
        seconds=41.5,
    )
    assert LatencyTable.from_record(json.loads(json.dumps(full.as_record()))) == full
    assert LatencyTable.from_record(json.loads(json.dumps(table().as_record()))) == table()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ScheduleError):
        TOKEN_POOLED.predict(TokenSchedule.dense(TokenLayout(TOKENS, 3)))
    with pytest.raises(MeasurementError, match="ascending"):
        Curve((5, 5), (1.0, 2.0))
    with pytest.raises(MeasurementError, match="above 0"):
        Curve((5, 6), (1.0, 0.0))


def test_a_curve_goes_on_beyond_its_ends_but_never_below_zero() -> None:
    curve = Curve((10, 20), (1.0, 3.0))
    assert curve.at(15) == 2.0 and curve.at(30) == 5.0 and curve.at(1) == 0.0
    assert Curve((7,), (2.0,)).at(900) == 2.0

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from tavt_kit.bench import Protocol, latency_table, timing
from tavt_kit.bench.latency_table import check_table, measure_schedules, measure_table, random_schedules
from tavt_kit.bench.parts import token_grid
from tavt_kit.bench.timing import round_speeds
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tests.runtimes.models import SIZE, tiny_vit

ONE_THREAD = TargetDevice.parse("torch:cpu:threads=1")
short = pytest.mark.usefixtures("short_series")
HASTY = Protocol(min_seconds=0.0, max_seconds=0.2, min_runs=2, visit_seconds=0.0, warmup_seconds=0.01)


@pytest.mark.parametrize(
    ("tokens", "least", "points"), [(197, 2, 12), (785, 2, 14), (17, 2, 12), (5, 3, 12), (3, 3, 9)]
)
def test_the_grid_spans_all_counts_in_equal_ratios(tokens: int, least: int, points: int) -> None:
    grid = token_grid(tokens, least, points)
    assert grid[0] == least and grid[-1] == tokens and len(grid) <= points
    assert list(grid) == sorted(set(grid))
    if tokens > 100:
        steps = np.diff(np.log(grid[4:]))
        assert steps.max() / steps.min() < 1.5


def test_random_schedules_fit_the_model_and_differ() -> None:
    schedules = random_schedules(TokenLayout(197, 12), 50, np.random.default_rng(0))
    assert len(set(schedules)) > 45
    for schedule in schedules:
        schedule.check(TokenLayout(197, 12))
    drops = [len(set(schedule.counts)) for schedule in schedules]
    assert min(drops) <= 4 and max(drops) >= 11


def test_the_speed_of_each_round_is_told_from_the_cells_own() -> None:
    rng = np.random.default_rng(0)
    own, speeds = rng.uniform(0.1, 40, 30), np.array([1.0, 1.0, 1.2, 1.2, 0.9, 1.0, 1.0])
    noise = rng.lognormal(0, 0.003, (30, 7))
    times = own[:, None] * speeds * noise
    times[3, 2] *= 5  # an interruption belongs to one cell, not to its round
    assert round_speeds(times) == pytest.approx(speeds, rel=0.005)
    assert np.median(times / round_speeds(times), axis=1) == pytest.approx(own, rel=0.005)


@short
@pytest.mark.parametrize("kind", ["ffvt_base_patch16", "transfg_base_patch16"])
def test_a_table_of_a_fusing_model_predicts_the_layer_that_fuses(kind: str) -> None:
    model = wrap(timm.create_model(kind, img_size=SIZE, patch_size=8, embed_dim=48, num_heads=2, depth=3).eval())
    table = measure_table(model, ONE_THREAD, seconds=0.5, points=4)
    again = LatencyTable.from_record(table.as_record())
    drop = TokenSchedule((model.tokens - 4, model.tokens - 8, 2))
    for schedule in (model.dense_schedule, drop):
        assert again.predict(schedule) == pytest.approx(table.predict(schedule)) and table.predict(schedule) > 0
    assert table.model.taps == (12 if kind.startswith("ffvt") else 0)


@short
@pytest.mark.parametrize(
    ("score", "target"),
    [
        ("column", ONE_THREAD),
        pytest.param("cls", ONE_THREAD, marks=pytest.mark.slow),
        pytest.param(
            "column",
            TargetDevice.parse("torch:cuda:precision=bf16"),
            marks=(pytest.mark.gpu(pretended=True), pytest.mark.slow),
        ),
    ],
)
def test_a_table_of_a_tiny_model(score: str, target: TargetDevice) -> None:
    told = list[tuple[str, float]]()
    table = measure_table(
        tiny_vit(score=score),
        target,
        name="tiny",
        seconds=0.5,
        points=5,
        on_step=lambda what, share: told.append((what, share)),
    )
    assert (table.model.layout, table.model.score) == (TokenLayout(17, 3), score)
    assert table.cells.attend.counts[0] == 2 and table.cells.attend.counts[-1] == 17
    assert table.cells.last is not None and table.host is not None and table.seconds > 0
    assert all(cell.few <= cell.many < cell.count for cell in table.cells.drop)
    assert table.predict(TokenSchedule((17,) * 3)) > 0
    assert [share for _, share in told] == sorted(share for _, share in told) and told[-1][1] == 1.0
    assert LatencyTable.from_record(table.as_record()) == table
    tested = check_table(table, tiny_vit(score=score), count=3, protocol=HASTY)
    assert len(tested.held_out) == 3 and tested.mean_error is not None


@pytest.mark.slow
@short
@pytest.mark.parametrize("kind", ["plain", "rotary", "relative"])
def test_uneven_counts_are_looked_for_where_positions_follow_the_tokens(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half is asked for more tokens than there are places, though all tokens themselves are uneven."""
    from tests.bench.test_parts import shaken

    names = {"plain": "vit_tiny_patch16_224", "rotary": "eva02_tiny_patch14_224", "relative": "beit_base_patch16_224"}
    model = shaken(names[kind], patch_size=4, embed_dim=64)
    assert model.tokens == 65
    monkeypatch.setattr(timing, "_excess", lambda first, again=None: {61: 0.1, 65: 0.2, 67: 0.1})
    monkeypatch.setattr(timing, "_GROWTH", 0.0)
    table = measure_table(model, ONE_THREAD, seconds=30.0, points=3)
    found = table.cells.uneven
    assert found is not None and found.counts == (61, 65) and 0 <= found.share <= 1
    assert (found.dropping, found.reading) == ((1.0, 1.0) if kind != "plain" else (0.75, 0.5))
    assert LatencyTable.from_record(table.as_record()) == table


@short
def test_a_pooling_head_has_no_last_cell() -> None:
    from tests.bench.test_parts import MODELS

    table = measure_table(MODELS["pooling"](), ONE_THREAD, seconds=0.3, points=4)
    assert table.cells.last is None and len(table.cells.head.counts) > 1


def test_whole_passes_come_back_in_order() -> None:
    model = tiny_vit()
    schedules = [model.dense_schedule, TokenSchedule((9, 5, 3))]
    runs = measure_schedules(model, ONE_THREAD, schedules, HASTY, np.random.default_rng(0))
    assert len(runs) == 2 and all(run.median > 0 for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["torch:cpu:threads=1", "openvino:cpu:threads=1"])
def test_the_table_predicts_schedules_it_has_not_seen(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On processor time, which other processes on the machine disturb little."""
    from tavt_kit.models.timm_import import timm
    from tavt_kit.models.wrap import wrap
    from tavt_kit.runtimes import on_openvino, torch_session

    clock = SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr(torch_session, "time", clock)
    monkeypatch.setattr(on_openvino, "time", clock)
    model = wrap(timm.create_model("vit_small_patch16_224", img_size=160).eval())
    table = measure_table(model, TargetDevice.parse(text))
    tested = check_table(table, model, count=10)
    assert tested.mean_error is not None and tested.mean_error < 0.05, tested.held_out


@short
def test_held_out_errors_go_by_rounds_not_by_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine falls to another speed half-way, and an interruption of the dense model moves its median there."""
    model = tiny_vit()
    table = measure_table(model, ONE_THREAD, seconds=0.3, points=3)
    (schedule,) = random_schedules(model.layout, 1, np.random.default_rng(5))
    dense, own = table.dense_ms or table.predict(model.dense_schedule), table.predict(schedule)
    anchor = Measurement(tuple(dense * speed for speed in (1.0, 1.0, 5.0, 1.4, 1.4)), steady=False)
    run = Measurement(tuple(own * speed for speed in (1.0, 1.0, 1.0, 1.4, 1.4)), steady=False)
    monkeypatch.setattr(latency_table, "measure_schedules", lambda *args, **named: [anchor, run])
    (found,) = check_table(table, model, count=1, rng=np.random.default_rng(5)).held_out
    assert found.schedule == schedule and found.error == pytest.approx(0.0, abs=1e-9)
    assert found.drift == pytest.approx(1.0) and found.measured_ms == pytest.approx(own)
    assert anchor.median / dense == pytest.approx(1.4)  # by medians the error would have been 40 %

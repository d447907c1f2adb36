from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule, stage_layers
from tavt_kit.distill.sampling import Sampler, bounded_counts, surviving_layers
from tavt_kit.errors import ScheduleError, TrainingError, UnknownName

SAMPLERS = st.builds(
    Sampler,
    layout=st.builds(TokenLayout, st.integers(12, 300), st.integers(1, 14), st.integers(0, 5)),
    bound=st.floats(0.05, 0.9),
    random=st.integers(0, 3),
    layer_dropout=st.none() | st.floats(0.0, 0.9),
)


@given(sampler=SAMPLERS, seed=st.integers(0, 99))
def test_every_drawn_schedule_fits_the_model_and_the_bound(sampler: Sampler, seed: int) -> None:
    full, subs = sampler.draw(np.random.default_rng(seed))
    assert set(full.counts) == {sampler.layout.tokens}
    assert len(subs) == sampler.random + 1
    for schedule in (full, *subs):
        schedule.check(sampler.layout)
    for sub in subs:
        entering = sampler.layout.tokens
        for layer, count in enumerate(sub.counts):
            least = (
                max(math.ceil(entering * (1 - sampler.bound)), sampler.layout.least) if sub.runs(layer) else entering
            )
            assert least <= count <= entering
            entering = count


@given(sampler=SAMPLERS, seed=st.integers(0, 99))
def test_without_layer_dropout_the_first_is_the_taper_and_the_smallest(sampler: Sampler, seed: int) -> None:
    if sampler.layer_dropout is not None:
        return
    _, (smallest, *others) = sampler.draw(np.random.default_rng(seed))
    assert smallest == TokenSchedule.taper(sampler.layout, sampler.bound)
    for other in others:
        assert all(a <= b for a, b in zip(smallest.counts, other.counts, strict=True))


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    sampler = Sampler(TokenLayout(197, 12), bound=0.4, layer_dropout=0.2)
    first, second, third = (sampler.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == second != third


def test_random_counts_reach_both_ends() -> None:
    draws = np.random.default_rng(0)
    firsts = {bounded_counts(10, 1, 0.3, draws)[0] for _ in range(200)}
    assert firsts == {7, 8, 9, 10}


def test_layer_dropout_drops_its_share_and_may_drop_all() -> None:
    draws = np.random.default_rng(0)
    shares = [len(surviving_layers(12, 0.25, draws)) / 12 for _ in range(400)]
    assert np.mean(shares) == pytest.approx(0.75, abs=0.02)
    assert surviving_layers(3, 0.999999, draws) == ()


@pytest.mark.parametrize("wrong", [{"random": -1}, {"layer_dropout": 1.0}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        Sampler(TokenLayout(17, 6), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1, float("nan")])
def test_a_bound_that_cannot_be_is_refused(bound: float) -> None:
    with pytest.raises(TrainingError, match="`bound` must be above 0 and below 1, got "):
        Sampler(TokenLayout(17, 6), bound)


def test_by_ratio_every_network_is_a_taper_within_the_bound() -> None:
    sampler = Sampler(TokenLayout(197, 12), bound=0.5, random=20, sampling="ratio")
    _, (smallest, *others) = sampler.draw(np.random.default_rng(0))
    tapers = {TokenSchedule.taper(TokenLayout(197, 12), ratio) for ratio in np.linspace(0, 0.5, 20001)}
    assert smallest == TokenSchedule.taper(TokenLayout(197, 12), 0.5) and tapers >= set(others)
    assert len(set(others)) > 15


@given(sampler=SAMPLERS, seed=st.integers(0, 99))
def test_in_stages_networks_drop_at_three_layers_and_the_smallest_first_and_most(sampler: Sampler, seed: int) -> None:
    sampler = replace(sampler, sampling="stages", layer_dropout=None)
    starts, most = stage_layers(sampler.layout.layers), 1 - (1 - sampler.bound) ** (sampler.layout.layers / 4)
    _, (smallest, *others) = sampler.draw(np.random.default_rng(seed))
    assert smallest == TokenSchedule.stages(sampler.layout, most)
    for sub in (smallest, *others):
        sub.check(sampler.layout)
        assert all(a <= b for a, b in zip(smallest.counts, sub.counts, strict=True))
        falls = [place for place, (a, b) in enumerate(pairwise((sampler.layout.tokens, *sub.counts))) if b < a]
        stage = [bisect_right(starts, place) for place in falls]
        assert stage == sorted(set(stage)) and 0 not in stage


def test_stages_come_at_every_layer_of_their_quarter_and_layer_dropout_may_skip_them() -> None:
    sampler = Sampler(TokenLayout(65, 12), bound=0.4, random=200, sampling="stages")
    _, (smallest, *others) = sampler.draw(np.random.default_rng(0))
    assert smallest.counts == (*[65] * 3, *[15] * 3, *[4] * 3, *[2] * 3)
    first = {
        next(place for place, count in enumerate(sub.counts) if count < 65) for sub in others if sub.counts[5] < 65
    }
    assert first == {3, 4, 5}
    thinned = replace(sampler, layer_dropout=0.5).draw(np.random.default_rng(0))[1]
    assert {sub.counts[-1] for sub in thinned} >= {65} and all(sub.counts[0] == 65 for sub in thinned)


FRONT = tuple(TokenSchedule(counts) for counts in ((17,) * 4, (17, 12, 9, 5), (9, 9, 4, 2), (16, 16, 16, 16)))


def test_a_list_gives_its_smallest_every_time_and_all_others_in_turn() -> None:
    sampler = Sampler(TokenLayout(17, 4), schedules=(*FRONT, FRONT[1]))
    seen = set()
    for seed in range(12):
        full, subs = sampler.draw(np.random.default_rng(seed))
        assert full.is_dense(17) and subs[0] == FRONT[2] and set(subs[1:]) == {FRONT[1], FRONT[3]}
        seen.add(subs)
    assert len(seen) == 2
    _, many = Sampler(TokenLayout(17, 4), random=5, schedules=FRONT).draw(np.random.default_rng(0))
    assert len(many) == 6 and {many.count(FRONT[1]), many.count(FRONT[3])} == {2, 3}
    _, one = Sampler(TokenLayout(17, 4), random=2, schedules=FRONT[2:3]).draw(np.random.default_rng(0))
    assert one == (FRONT[2],) * 3


def test_layer_dropout_thins_listed_schedules_too() -> None:
    sampler = Sampler(TokenLayout(17, 4), random=3, layer_dropout=0.5, schedules=FRONT)
    for seed in range(20):
        _, subs = sampler.draw(np.random.default_rng(seed))
        for sub in subs:
            assert any(all(sub.counts[layer] == each.counts[layer] for layer in sub.executed or ()) for each in FRONT)


def test_a_list_that_cannot_be_is_refused() -> None:
    with pytest.raises(TrainingError, match="keeps all 17 tokens"):
        Sampler(TokenLayout(17, 4), schedules=FRONT[:1])
    for wrong in (TokenSchedule((17, 12, 9)), TokenSchedule((18, 12, 9, 5))):
        with pytest.raises(ScheduleError):
            Sampler(TokenLayout(17, 4), schedules=(wrong,))
    with pytest.raises(UnknownName, match="bound, ratio, stages, curve"):
        Sampler(TokenLayout(17, 4), sampling="magic")


def test_curves_leave_late_keep_sixteen_patches_and_repeat_where_layers_are_left_out() -> None:
    sampler = Sampler(TokenLayout(65, 12), bound=0.4, random=200, sampling="curve", layer_dropout=0.2)
    full, (smallest, *others) = sampler.draw(np.random.default_rng(3))
    assert full.counts == (65,) * 12 and smallest.counts[-1] == 17
    plain = replace(sampler, layer_dropout=None).draw(np.random.default_rng(3))[1]
    assert plain[0].counts == (65, 65, 39, 24, 17, 17, 17, 17, 17, 17, 17, 17)
    assert all(schedule.counts[-1] >= 17 and sum(schedule.counts) >= sum(plain[0].counts) for schedule in plain)
    firsts = [next((layer for layer, count in enumerate(one.counts) if count < 65), 12) for one in plain[1:]]
    assert min(firsts) == 2 and {3, 4, 5, 6} <= set(firsts) and len({schedule.counts for schedule in plain}) > 150
    for schedule in (smallest, *others):
        assert schedule.executed is not None  # TokenSchedule itself refuses a count that changes where nothing runs
    assert [one.counts for one in plain] == [
        one.counts for one in replace(sampler, layer_dropout=None).draw(np.random.default_rng(3))[1]
    ]

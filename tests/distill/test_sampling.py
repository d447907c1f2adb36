from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.distill.sampling import Bound, Sampler, bounded_counts, first_layers, surviving_layers
from tavt_kit.errors import TrainingError
from tavt_kit.schedule import TokenSchedule

SAMPLERS = st.builds(
    Sampler,
    tokens=st.integers(12, 300),
    layers=st.integers(1, 14),
    prefix=st.integers(0, 5),
    bound=st.floats(0.05, 0.9).map(Bound),
    random=st.integers(0, 3),
    layer_dropout=st.none() | st.floats(0.0, 0.9),
)


@given(sampler=SAMPLERS, seed=st.integers(0, 99))
def test_every_drawn_schedule_fits_the_model_and_the_bound(sampler: Sampler, seed: int) -> None:
    full, subs = sampler.draw(np.random.default_rng(seed))
    assert set(full.counts) == {sampler.tokens}
    assert len(subs) == sampler.random + 1
    for schedule in (full, *subs):
        schedule.check(tokens=sampler.tokens, layers=sampler.layers, prefix=sampler.prefix)
    for sub in subs:
        entering = sampler.tokens
        for layer, count in enumerate(sub.counts):
            least = max(math.ceil(entering * (1 - sampler.bound.end)), sampler.floor) if sub.runs(layer) else entering
            assert least <= count <= entering
            entering = count


@given(sampler=SAMPLERS, seed=st.integers(0, 99))
def test_without_layer_dropout_the_first_is_the_taper_and_the_smallest(sampler: Sampler, seed: int) -> None:
    if sampler.layer_dropout is not None:
        return
    _, (smallest, *others) = sampler.draw(np.random.default_rng(seed))
    assert smallest == TokenSchedule.taper(sampler.tokens, sampler.layers, sampler.bound.end, sampler.prefix)
    for other in others:
        assert all(a <= b for a, b in zip(smallest.counts, other.counts, strict=True))


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    sampler = Sampler(197, 12, bound=Bound(0.4), layer_dropout=0.2)
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
    assert first_layers(3, 9) == (0,)


@pytest.mark.parametrize("wrong", [{"random": -1}, {"layer_dropout": 1.0}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        Sampler(17, 6, **wrong)  # type: ignore[arg-type]

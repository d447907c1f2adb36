"""Evolution: deterministic, never the same twice, within the ceilings, and it ends."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from tavt_kit.core.front import dominates, hypervolume
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetTooTight, TavtError
from tavt_kit.search.algorithms.base import Outcome
from tavt_kit.search.algorithms.nsga2 import Evolution
from tavt_kit.search.proposals import curve, drawn_curve, fit, published, stages, taper
from tavt_kit.search.space import Space
from tests.parameters import few

SPACE = Space(TokenLayout(50, 6), minimum=2)


def cost(schedule: TokenSchedule) -> float:
    entering = (schedule.counts[0], *schedule.counts[:-1])
    return sum(n * n + 30 * o for n, o in zip(entering, schedule.counts, strict=True))


def metric(schedule: TokenSchedule) -> float:
    """Some layers matter and others do not, with falling returns: the best shapes are no tapers."""
    weights = (0.05, 3.0, 0.05, 0.05, 2.0, 0.0)
    parts = [weight * (1 - np.exp(-6 * count / 50)) for weight, count in zip(weights, schedule.counts, strict=True)]
    return float(sum(parts) / sum(weights))


def run(
    evolution: Evolution, evaluations: int, worth: Callable[[TokenSchedule], float] = metric
) -> list[TokenSchedule]:
    asked: list[TokenSchedule] = []
    while len(asked) < evaluations:
        proposals = evolution.ask()
        if evolution.done():
            break
        asked += proposals
        evolution.tell([Outcome(cost(schedule), worth(schedule)) for schedule in proposals])
    return asked


def test_same_seed_same_search() -> None:
    random.seed(1), np.random.seed(1)
    first = run(Evolution(SPACE, seed=7, population=12), 120)
    random.seed(2), np.random.seed(2)
    assert run(Evolution(SPACE, seed=7, population=12), 120) == first
    assert run(Evolution(SPACE, seed=8, population=12), 120) != first


@pytest.mark.parametrize("ceiling", [None, 12_000.0, 2_000.0])
def test_never_twice_and_never_above_the_ceiling(ceiling: float | None) -> None:
    fits = None if ceiling is None else lambda schedule: cost(schedule) <= ceiling
    asked = run(Evolution(SPACE, seed=0, population=16, fits=fits), 400)
    assert len(asked) >= 400 and len(set(asked)) == len(asked)
    assert ceiling is None or max(map(cost, asked)) <= ceiling
    assert all(schedule == schedule.canonical() for schedule in asked)


def test_uses_the_ceiling() -> None:
    """A part of the children is grown up to the ceiling, where the most accurate schedules lie."""
    asked = run(Evolution(SPACE, seed=0, population=16, fits=lambda schedule: cost(schedule) <= 9000), 300)
    assert sum(cost(schedule) > 0.95 * 9000 for schedule in asked) > 60
    best = max(asked, key=metric)
    assert metric(best) > max(metric(one) for one in asked[:16])


def test_beats_random_and_its_own_seeds() -> None:
    """On 12 layers of which few matter; summed over seeds, because 250 random draws are lucky now and then."""
    space, weights = Space(TokenLayout(197, 12), minimum=2), np.random.default_rng(5).dirichlet(np.full(12, 0.4))

    def points(schedules: list[TokenSchedule]) -> list[tuple[float, float]]:
        return [
            (cost(one) / cost(space.dense), float(weights @ (1 - np.exp(-5 * np.array(one.counts) / 197))))
            for one in schedules
        ]

    searched, drawn, begun = 0.0, 0.0, 0.0
    for seed in range(3):
        rng, evolution = np.random.default_rng(seed), Evolution(space, seed=seed)
        asked: list[TokenSchedule] = []
        while len(asked) < 250:
            asked += (proposals := evolution.ask())
            evolution.tell([Outcome(*point) for point in points(proposals)])
        searched += hypervolume(points(asked[:250]))
        begun += hypervolume(points(asked[:16]))
        drawn += hypervolume(points([space.decode(space.sample(rng)) for _ in range(250)]))
    assert searched > drawn + 0.05 and searched > begun + 0.05


def test_begins_with_what_the_user_gives_then_families() -> None:
    mine = TokenSchedule((50, 40, 40, 20, 20, 20))
    evolution = Evolution(SPACE, seed=0, population=18, seeds=[mine])
    first = evolution.ask()
    origins = [evolution.origin(schedule) for schedule in first]
    assert first[0] == mine and origins[0] == "user" and origins[1] == "dense" and len(first) == 18
    assert {"published", "curve", "taper", "stages", "late", "random"} <= set(origins)
    evolution.tell([Outcome(cost(schedule), metric(schedule)) for schedule in first])
    assert {evolution.origin(schedule) for schedule in evolution.ask()} == {"nsga2"}


def test_user_seed_above_the_ceiling_is_shrunk_into_it() -> None:
    first = Evolution(SPACE, seed=0, seeds=[SPACE.dense], fits=lambda schedule: cost(schedule) <= 5000).ask()
    assert 4500 < cost(first[0]) <= 5000


def test_curves_leave_late_and_published_ones_are_whole() -> None:
    space = Space(TokenLayout(197, 12))
    assert str(curve(1.0)(space, 0.5)) == "197x2,187,177,168,158,148,138,128,119,109x2"
    assert [str(one) for one in published(space)][1] == "197,177,162,142,115,97,79,60,48,23,17x2"
    rng = np.random.default_rng(0)
    drawn = [drawn_curve(space, rng) for _ in range(50)]
    assert len(set(drawn)) > 45 and min(one.counts[-2] for one in drawn) >= 17


def test_families() -> None:
    space = Space(TokenLayout(785, 12))
    official = TokenSchedule.taper(TokenLayout(785, 12), ratio=0.2)
    assert taper(space, 0.2) == official.canonical()
    assert str(stages(space, 0.5)) == "785x3,392x3,196x3,98x3"


@pytest.mark.parametrize(("tokens", "layers"), few([(5, 2), (5, 3), (3, 4), (2, 2), (7, 4)], (5, 2), (2, 2)))
@pytest.mark.parametrize("population", [1, 2, 12])
def test_small_spaces_are_exhausted_and_end(tokens: int, layers: int, population: int) -> None:
    space = Space(TokenLayout(tokens, layers))
    evolution = Evolution(space, seed=0, population=population)
    asked = run(evolution, 10_000, worth=lambda schedule: schedule.counts[-1] / tokens)
    assert set(asked) == {space.decode(row) for row in space.every()} and len(asked) == space.size
    assert evolution.done() and "no schedule is left" in evolution.stopped_because
    assert evolution.ask() == []


def test_failed_evaluations_do_not_breed() -> None:
    """Schedules whose evaluation fails are worse than any other, and the search goes on."""
    evolution = Evolution(SPACE, seed=0, population=10)
    for _ in range(12):
        proposals = evolution.ask()
        evolution.tell([Outcome(cost(one), float("nan") if one.counts[0] > 40 else metric(one)) for one in proposals])
    late = evolution.ask()
    assert sum(one.counts[0] <= 40 for one in late) > len(late) / 2


def test_floor_pulls_the_search() -> None:
    evolution = Evolution(SPACE, seed=0, population=16)
    asked: list[TokenSchedule] = []
    for _ in range(15):
        proposals = evolution.ask()
        asked += proposals
        evolution.tell([Outcome(cost(one), metric(one), max(0.0, 0.9 - metric(one))) for one in proposals])
    assert np.mean([metric(one) >= 0.9 for one in asked[-64:]]) > 0.5
    kept = [(cost(one), metric(one)) for one in asked if metric(one) >= 0.9]
    assert any(dominates(b, a) for a in kept[:5] for b in kept[-64:])


def test_fit_shrinks_no_more_than_needed_and_fills() -> None:
    limit = 9000.0
    fits = lambda schedule: cost(schedule) <= limit  # noqa: E731
    top = len(SPACE.values) - 1
    big = np.full(SPACE.genes, top)
    small = np.arange(SPACE.genes)[::-1]
    for genes, fill in ((big, False), (small, True)):
        fitted = SPACE.decode(fit(genes, SPACE, fits, fill=fill))
        assert 0.9 * limit < cost(fitted) <= limit
    assert (fit(small, SPACE, fits, fill=False) == small).all()


def test_refusals() -> None:
    with pytest.raises(TavtError, match="at least 1"):
        Evolution(SPACE, seed=0, population=0)
    with pytest.raises(BudgetTooTight):
        Evolution(SPACE, seed=0, fits=lambda schedule: False)
    evolution = Evolution(SPACE, seed=0, population=4)
    evolution.ask()
    with pytest.raises(RuntimeError):
        evolution.ask()
    with pytest.raises(RuntimeError):
        evolution.tell([Outcome(1.0, 1.0)])

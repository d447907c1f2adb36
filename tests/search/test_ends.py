"""Every search ends, whatever the space, the population and the budget, and says why."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError, MeasurementError, ParameterError
from tavt_kit.search import Space, Store, one_by_one, search
from tavt_kit.search.algorithms import ALGORITHMS
from tests.parameters import few
from tests.search.toy import COSTS, MACS_ONLY, SPACE, answers, evaluate

OURS = [name for name in ALGORITHMS if name != "tavt-official"]  # it knows one size of model and of population


def fragile(schedule: TokenSchedule) -> Accuracy:
    """Fails for about a third of the schedules, but never for the dense one."""
    if schedule.counts[0] != schedule.counts[-1] and random.Random(str(schedule)).random() < 0.35:
        raise MeasurementError("the logits are not finite")
    return evaluate(schedule)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    algorithm=some.sampled_from(OURS),
    tokens=some.integers(3, 6),
    layers=some.integers(2, 3),
    population=some.integers(1, 6),
    share=some.floats(0, 1.2),
    seed=some.integers(0, 3),
    fails=some.booleans(),
)
def test_a_small_space_is_searched_to_its_end(
    algorithm: str, tokens: int, layers: int, population: int, share: float, seed: int, fails: bool
) -> None:
    space = Space(TokenLayout(tokens, layers))
    least, dense = MACS_ONLY.macs(space.least), MACS_ONLY.macs(space.dense)
    budget = Budget.parse([f"flops={int(least + share * (dense - least))}"])
    fits = MACS_ONLY.fits(budget)
    result = search(
        space, one_by_one(fragile) if fails else answers, costs=MACS_ONLY, budget=budget, evaluations=10_000,
        population=population, seed=seed, algorithm=algorithm,
    )  # fmt: skip
    wanted = {space.decode(row) for row in space.every() if fits(space.decode(row))} | {space.dense}
    evaluated = [one.schedule for one in result.candidates]
    assert len(evaluated) == len(set(evaluated)) and set(evaluated) == wanted
    assert "no schedule is left" in result.stopped_because


@pytest.mark.parametrize("algorithm", OURS)
@pytest.mark.parametrize("population", few([1, 2, 7], 2))
def test_five_tokens_and_two_layers(algorithm: str, population: int) -> None:
    """The tiniest model, with fewer schedules than a generation holds, stored and asked again."""
    space, store = Space(TokenLayout(5, 2)), Store(None)
    results = [
        search(space, answers, costs=COSTS, population=population, algorithm=algorithm, store=store) for _ in range(2)
    ]
    assert [one.evaluations for one in results] == [space.size] * 2 == [len(store)] * 2


@pytest.mark.parametrize("algorithm", few(OURS, "nsga2"))
def test_a_budget_that_admits_one_schedule(algorithm: str) -> None:
    budget = Budget.parse([f"flops={COSTS.macs(SPACE.least)}"])
    result = search(SPACE, answers, costs=MACS_ONLY, budget=budget, evaluations=50, algorithm=algorithm)
    assert result.evaluations == 2 and [one.schedule for one in result.front] == [SPACE.least]
    assert "no schedule is left" in result.stopped_because


@pytest.mark.parametrize("algorithm", [*OURS[:-1], pytest.param(OURS[-1], marks=pytest.mark.slow)])
def test_everything_but_the_dense_model_fails(algorithm: str) -> None:
    def hopeless(schedule: TokenSchedule) -> Accuracy:
        if schedule != SPACE.dense:
            raise MemoryError
        return evaluate(schedule)

    result = search(SPACE, one_by_one(hopeless), costs=COSTS, evaluations=60, population=8, algorithm=algorithm)
    assert result.evaluations == 60 and [one.schedule for one in result.front] == [SPACE.dense]


def test_bounds_that_allow_nothing_are_refused() -> None:
    with pytest.raises(ParameterError, match="`evaluations` must be at least 1, got 0"):
        search(SPACE, answers, costs=COSTS, evaluations=0)
    with pytest.raises(BudgetError, match="at least the dense model"):
        search(SPACE, answers, costs=COSTS, evaluations=None, max_seconds=0.0)


def test_a_dense_model_that_fails_says_why_now_and_when_asked_again() -> None:
    def broken(schedule: TokenSchedule) -> Accuracy:
        raise MeasurementError("the memory ran out")

    store = Store(None)
    for _ in range(2):
        with pytest.raises(MeasurementError, match="nothing to compare with: the memory ran out; .*`fresh`"):
            search(SPACE, one_by_one(broken), costs=COSTS, store=store)
    assert len(store) == 1

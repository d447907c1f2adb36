"""Answers in any order: stored as they come, told in the order asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import Store, one_by_one, search
from tavt_kit.search.study import in_order
from tests.search.test_loop import summary
from tests.search.toy import COSTS, SPACE, answers, evaluate

THREE = [TokenSchedule((5, count)) for count in (5, 4, 3)]
Answers = Iterator[tuple[TokenSchedule, EvaluationResult]]


def answer(seconds: float = 0.1) -> EvaluationResult:
    return EvaluationResult(Accuracy.of_counts(1, 2, split="val"), seconds)


def shuffled(seed: int) -> Callable[[Sequence[TokenSchedule]], Answers]:
    """Answers a generation in another order than asked."""
    draws = random.Random(seed)

    def mixed(schedules: Sequence[TokenSchedule]) -> Answers:
        return answers(draws.sample(schedules, len(schedules)))

    return mixed


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_completion_does_not_matter(seed: int) -> None:
    budget = Budget.parse(["latency=9ms"])
    straight = search(SPACE, answers, costs=COSTS, budget=budget, evaluations=53, population=8)
    mixed = search(SPACE, shuffled(seed), costs=COSTS, budget=budget, evaluations=53, population=8)
    assert summary(mixed) == summary(straight) and mixed.history == straight.history
    assert [one.schedule for one in mixed.candidates] == [one.schedule for one in straight.candidates]


def test_stored_as_they_come_and_given_out_in_order() -> None:
    store, seen = Store(None), []

    def backwards(schedules: Sequence[TokenSchedule]) -> Answers:
        for schedule in reversed(schedules):
            seen.append(len(store))
            yield schedule, answer()

    store.add(THREE[1], answer(7.0))
    given = list(in_order(THREE, backwards, store))
    assert [one.schedule for one in given] == THREE and [one.replayed for one in given] == [False, True, False]
    assert given[1].answer.seconds == 7.0 and seen == [1, 2] and len(store) == 3


def test_abandoned_it_stops_evaluating() -> None:
    begun, closed, store = [], [], Store(None)

    def watched(schedules: Sequence[TokenSchedule]) -> Answers:
        try:
            for schedule in schedules:
                begun.append(schedule)
                yield schedule, answer()
        finally:
            closed.append(True)

    coming = in_order(THREE, watched, store)
    assert not begun
    next(coming)
    coming.close()
    assert begun == THREE[:1] and closed == [True] and len(store) == 1
    list(in_order(THREE[:1], watched, store))
    assert begun == THREE[:1]  # nothing unknown: nothing is asked


def test_never_more_than_asked_whatever_the_generation() -> None:
    sizes: list[int] = []

    def counted(schedules: Sequence[TokenSchedule]) -> Answers:
        sizes.append(len(schedules))
        return answers(schedules)

    assert search(SPACE, counted, costs=COSTS, evaluations=20, population=8).evaluations == 20
    assert sizes == [1, 7, 8, 4]  # dense comes first, alone


def test_an_evaluator_that_does_not_do_as_asked_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="left 1 of 3"):
        list(in_order(THREE, lambda schedules: answers(schedules[1:]), Store(None)))
    with pytest.raises(RuntimeError, match="not asked"):
        list(in_order(THREE[1:], lambda schedules: answers(THREE), Store(None)))
    with pytest.raises(RuntimeError, match="answered before"):
        list(in_order(THREE, lambda schedules: answers([*schedules[:1] * 2]), Store(None)))


def test_no_memory_for_one_schedule_is_its_failure() -> None:
    def greedy(schedule: TokenSchedule) -> Accuracy:
        if schedule.counts[2] > 20 and schedule != SPACE.dense:
            raise MemoryError
        return evaluate(schedule)

    with Store(None) as store:
        found = search(SPACE, one_by_one(greedy), costs=COSTS, evaluations=40, store=store)
        failed = [one.schedule for one in found.candidates if one.accuracy is None]
        assert failed and found.evaluations == len(store) == 40
        assert {(store.get(one) or answer()).failure for one in failed} == {"the memory ran out"}


def test_an_answer_is_one_thing_or_the_other() -> None:
    half = Accuracy.of_counts(1, 2, split="val")
    for wrong in ((None, 0.1), (half, 0.1, "failed"), (half, 0.1, None, np.ones(3, bool))):
        with pytest.raises(ValueError):
            EvaluationResult(*wrong)  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="loss is nan"):
        EvaluationResult(half, 0.1, values={"loss": float("nan")})

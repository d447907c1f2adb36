"""search(): bounds, floors, splits, failures; and a killed search ends where an uninterrupted one does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError, BudgetTooTight, DataError, MeasurementError, ParameterError, RecordError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import Costs, Evaluate, Progress, SearchResult, Space, Store, one_by_one, search
from tests.search.toy import COSTS, MACS_ONLY, SPACE, answers, evaluate


def summary(result: SearchResult) -> list[tuple[object, ...]]:
    return [(one.schedule, one.macs, one.accuracy, one.origin) for one in result.front]


def test_never_evaluates_what_costs_too_much() -> None:
    asked: list[TokenSchedule] = []

    def watched(schedule: TokenSchedule) -> Accuracy:
        asked.append(schedule)
        return evaluate(schedule)

    budget = Budget.parse(["latency[p50]=8ms", "flops=3M"])
    result = search(SPACE, one_by_one(watched), costs=COSTS, budget=budget, evaluations=80, population=10)
    assert asked[0] == SPACE.dense and len(asked) == len(set(asked)) == result.evaluations == 80
    assert all(COSTS.macs(one) <= 3e6 and (COSTS.predicted(one) or 9) <= 8 * 1.03 for one in asked[1:])
    assert all(candidate.schedule != SPACE.dense for candidate in result.front)
    assert result.front.cost == "predicted" and result.stopped_because == "80 evaluations are done"
    assert list(result.history) == sorted(result.history) and result.hypervolume > 0


def test_objectives() -> None:
    def cost_of(costs: Costs, *texts: str) -> str:
        return search(SPACE, answers, costs=costs, budget=Budget.parse(texts), evaluations=5).front.cost

    assert cost_of(COSTS) == "predicted" and cost_of(COSTS, "latency=9ms", "flops=1T") == "predicted"
    assert cost_of(COSTS, "flops=1T") == "macs" and cost_of(MACS_ONLY) == "macs"


def test_without_a_floor_the_most_accurate_comes_first_with_one_the_cheapest() -> None:
    result = search(SPACE, answers, costs=COSTS, evaluations=150)
    most = result.ranked(Budget())[0]
    assert most.metric == max(one.metric for one in result.front)
    floor = Budget.parse(["drop=5"])
    result = search(SPACE, answers, costs=COSTS, budget=floor, evaluations=150)
    chosen = result.ranked(floor)[0]
    assert chosen.metric >= result.dense.metric - 0.05 - 1e-9
    cheaper = [one for one in result.candidates if one.cost("predicted") < chosen.cost("predicted")]
    assert cheaper and max(one.metric for one in cheaper) < result.dense.metric - 0.05
    last = result.ranked(Budget.parse(["top1=99%"]))[0]
    assert last.metric == max(one.metric for one in result.front)  # none keeps to it: the nearest comes first


def test_progress() -> None:
    told: list[Progress] = []
    search(SPACE, answers, costs=COSTS, budget=Budget.parse(["top1=60%"]), evaluations=30, on_progress=told.append)
    assert [one.evaluations for one in told] == list(range(1, 31))
    assert told[-1].seconds_left == 0 and told[5].seconds_left is not None and told[5].seconds_left > 0
    best = told[-1].best
    assert best is not None and best.metric >= 0.6 and not told[-1].replayed


def test_bounds() -> None:
    tiny = Space(TokenLayout(4, 3))
    result = search(tiny, answers, costs=COSTS, evaluations=10_000)
    assert result.evaluations == tiny.size and "no schedule is left" in result.stopped_because
    with pytest.raises(BudgetError, match="needs a bound"):
        search(SPACE, answers, costs=COSTS, evaluations=None)
    with pytest.raises(ParameterError, match="`seed` must be at least 0, got -1"):
        search(SPACE, answers, costs=COSTS, seed=-1)
    for seed in (1.5, "often", True):
        with pytest.raises(BudgetError, match="seed of a search is a whole number"):
            search(SPACE, answers, costs=COSTS, seed=seed)  # type: ignore[arg-type]
    result = search(SPACE, answers, costs=COSTS, evaluations=None, max_seconds=0.02)
    assert "time is used up" in result.stopped_because and result.seconds >= 0.02
    only_dense = search(SPACE, answers, costs=COSTS, evaluations=1)
    assert only_dense.evaluations == 1 and len(only_dense.front) == 1


def test_no_more_is_asked_at_once_than_there_is_time_for() -> None:
    """An evaluator answers all that it is asked in one pass: what is asked too much of it would be lost."""
    asked, store = list[int](), Store(None)

    def together(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        asked.append(len(schedules))
        yield from [(schedule, EvaluationResult(evaluate(schedule), 1.0)) for schedule in schedules]

    result = search(SPACE, together, costs=COSTS, evaluations=None, max_seconds=25.5, population=20, store=store)
    assert sum(asked) == len(store) == result.evaluations == 26 and "time is used up" in result.stopped_because


@pytest.mark.slow
def test_budget_that_admits_one_schedule() -> None:
    least = COSTS.macs(SPACE.least)
    result = search(SPACE, answers, costs=MACS_ONLY, budget=Budget.parse([f"flops={least}"]), evaluations=50)
    assert result.evaluations == 2 and [one.schedule for one in result.front] == [SPACE.least]


def test_infeasible_before_anything_is_evaluated() -> None:
    def never(schedule: TokenSchedule) -> Accuracy:
        raise AssertionError("an image was looked at")

    with pytest.raises(BudgetTooTight, match="nearest feasible budget is latency="):
        search(SPACE, one_by_one(never), costs=COSTS, budget=Budget.parse(["latency=1ms"]))
    with pytest.raises(BudgetError, match="no limit for a search"):
        search(SPACE, one_by_one(never), costs=COSTS, budget=Budget.parse(["size=1GB"]))


def test_selects_on_val_only() -> None:
    with pytest.raises(DataError, match="'val' only"):
        search(SPACE, one_by_one(lambda schedule: Accuracy.of_counts(1, 2, split="test")), costs=COSTS)


def test_failures_are_stored_and_never_win() -> None:
    def fragile(schedule: TokenSchedule) -> Accuracy:
        if schedule.counts[1] in range(15, 25):
            raise MeasurementError("the logits are not finite")
        return evaluate(schedule)

    result = search(SPACE, one_by_one(fragile), costs=COSTS, evaluations=60)
    failed = [one for one in result.candidates if one.accuracy is None]
    assert failed and result.evaluations == 60
    assert all(one.schedule.counts[1] not in range(15, 25) for one in result.front)

    def broken(schedule: TokenSchedule) -> Accuracy:
        raise MeasurementError("no memory")

    with pytest.raises(MeasurementError, match="dense"):
        search(SPACE, one_by_one(broken), costs=COSTS)


def stopping_after(number: int) -> Evaluate:
    """``answers``, ended by Ctrl-C after so many answers."""
    left = number

    def stopping(schedule: TokenSchedule) -> Accuracy:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return evaluate(schedule)

    return one_by_one(stopping)


def test_interrupted_anywhere_it_ends_the_same() -> None:
    budget = Budget.parse(["latency=9ms"])
    whole = search(SPACE, answers, costs=COSTS, budget=budget, evaluations=60, population=12, seed=3)
    for position in (0, 1, 2, 9, 11, 12, 13, 24, 37, 49, 59):
        store = Store(None)
        with pytest.raises(KeyboardInterrupt):
            search(
                SPACE, stopping_after(position), costs=COSTS, budget=budget, evaluations=60, population=12, seed=3,
                store=store,
            )  # fmt: skip
        assert len(store) == position
        result = search(
            SPACE, stopping_after(60 - position), costs=COSTS, budget=budget, evaluations=60, population=12, seed=3,
            store=store,
        )  # fmt: skip
        assert summary(result) == summary(whole) and result.history == whole.history


def test_interrupted_and_opened_again(tmp_path: Path) -> None:
    with Store(tmp_path / "search.db") as store:
        with pytest.raises(KeyboardInterrupt):
            search(SPACE, stopping_after(5), costs=COSTS, evaluations=20, population=6, seed=3, store=store)
    with Store(tmp_path / "search.db") as store:
        assert len(store) == 5
        result = search(SPACE, stopping_after(15), costs=COSTS, evaluations=20, population=6, seed=3, store=store)
    assert summary(result) == summary(search(SPACE, answers, costs=COSTS, evaluations=20, population=6, seed=3))


def test_longer_continues_and_another_recipe_is_refused() -> None:
    with Store(None) as store:
        search(SPACE, answers, costs=COSTS, evaluations=20, seed=3, store=store)
        longer = search(SPACE, answers, costs=COSTS, evaluations=70, seed=3, store=store)
        assert summary(longer) == summary(search(SPACE, answers, costs=COSTS, evaluations=70, seed=3))
        with pytest.raises(RecordError, match="seed was 3, is 4"):
            search(SPACE, answers, costs=COSTS, evaluations=20, seed=4, store=store)
        with pytest.raises(RecordError, match="budget"):
            search(SPACE, answers, costs=COSTS, budget=Budget.parse(["flops=1T"]), seed=3, store=store)


def test_goes_on_by_other_costs_from_an_earlier_result() -> None:
    budget, asked = Budget.parse(["latency=8ms"]), []

    def watched(schedule: TokenSchedule) -> Accuracy:
        asked.append(schedule)
        return evaluate(schedule)

    first = search(SPACE, one_by_one(watched), costs=COSTS, budget=budget, evaluations=40)
    faster = replace(COSTS, quantile_ratios={"p90": 0.8})
    store = Store(None)
    again = search(SPACE, one_by_one(watched), costs=faster, budget=budget, evaluations=60, after=first, store=store)
    assert len(asked) == len(set(asked)) == again.evaluations == 60 and len(store) == 20
    assert again.candidates[:40] == first.candidates and again.dense == first.dense
    assert (
        max(one.cost("predicted") for one in again.front) > 9 > 8.3 > max(one.cost("predicted") for one in first.front)
    )
    assert again.ranked(budget)[0].metric >= first.ranked(budget)[0].metric


SCRIPT = """
import time
from dataclasses import replace
from pathlib import Path
from tests.search.toy import COSTS, SPACE, evaluate
from tavt_kit.search import Store, one_by_one, search

def slow(schedule):
    time.sleep(0.01)
    return evaluate(schedule)

with Store(Path({path!r})) as store:
    search(SPACE, one_by_one(slow), costs=COSTS, evaluations=80, population=12, seed=3, store=store)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL, again and again, at moments nobody chose; no answer is lost and the front is the same."""
    path = tmp_path / "search.db"
    script = SCRIPT.format(path=str(path))
    root = str(Path(__file__).parents[2])
    rng, before = random.Random(0), 0
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root})
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.6) + (2.0 if before else 0.0))
        child.send_signal(signal.SIGKILL)
        child.wait()
        with Store(path) as store:
            assert len(store) >= before
            before = len(store)
    with Store(path) as store:
        again = search(SPACE, answers, costs=COSTS, evaluations=80, population=12, seed=3, store=store)
    assert summary(again) == summary(search(SPACE, answers, costs=COSTS, evaluations=80, population=12, seed=3))


def test_it_ends_by_the_clock_and_goes_on_to_the_same_front() -> None:
    """What an evaluator does beside evaluating counts, too, and the dense model is evaluated whatever the time."""
    left, store, asked = [10.0], Store(None), list[int]()

    def slow(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        asked.append(len(schedules))
        for schedule in schedules:
            left[0] -= 1.0
            yield schedule, EvaluationResult(evaluate(schedule), 0.001)

    result = search(SPACE, slow, costs=COSTS, evaluations=100, time_left=lambda: left[0], store=store)
    assert result.evaluations == 10 and result.stopped_because == "the time is used up" and max(asked) <= 8
    again = search(SPACE, slow, costs=COSTS, evaluations=100, max_seconds=result.seconds, store=store)
    assert again.candidates == result.candidates and [*again.front] == [*result.front] and left == [0.0]
    left[0] = -5.0
    only_dense = search(SPACE, slow, costs=COSTS, evaluations=100, time_left=lambda: left[0])
    assert only_dense.evaluations == 1

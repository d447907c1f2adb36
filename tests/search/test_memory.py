"""A limit on memory in a search: nothing predicts it, and what is returned was measured to keep to it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError
from tavt_kit.search import Objectives, SearchResult, search
from tavt_kit.search.finalists import confirm
from tests.search.test_final import Machine
from tests.search.toy import COSTS, MACS_ONLY, SPACE, answers

BUDGET = Budget.parse(["memory=318MB"])


def law(schedule: TokenSchedule) -> float:
    """Each layer that drops takes 4 MB, the first one's tokens 20 MB in all: an early deep drop takes the least."""
    before = (SPACE.layout.tokens, *schedule.counts[:-1])
    drops = sum(kept < count for kept, count in zip(schedule.counts, before, strict=True))
    return 300e6 + 4e6 * drops + 20e6 * schedule.counts[0] / SPACE.layout.tokens


class Processes:
    """Every schedule takes what the law says and some more, in three processes."""

    def __init__(self, more: float = 0.0) -> None:
        self.more, self.asked = more, list[TokenSchedule]()

    def __call__(self, schedules: Sequence[TokenSchedule]) -> list[tuple[int, ...]]:
        self.asked += schedules
        return [tuple(round(law(one) + self.more + 1e4 * number) for number in range(3)) for one in schedules]


def found(*, costs: object = COSTS, budget: Budget = BUDGET) -> SearchResult:
    return search(SPACE, answers, costs=costs, budget=budget, evaluations=40)  # type: ignore[arg-type]


def test_a_limit_constrains_no_proposal_and_single_drops_are_among_them() -> None:
    result = found()
    assert result.dense_fits and max(law(one.schedule) for one in result.candidates) > 318e6
    assert any(one.origin == "once" for one in result.candidates)


@pytest.mark.parametrize("budget", [BUDGET, Budget.parse(["memory=318MB", "latency=9ms"])])
def test_the_most_accurate_that_keeps_to_it_is_taken(budget: Budget) -> None:
    result, processes = found(budget=budget), Processes()
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.0), peaks=processes, number=2, rounds=2)
    assert final.verdict is Verdict.PASS and final.pick is not None and max(final.pick.memory) <= 318e6
    assert len(processes.asked) == len(set(processes.asked)) and final.over > 0
    fitting = [one.metric for one in final.measured if max(one.memory) <= 318e6 and one.verdict is Verdict.PASS]
    assert final.pick.metric == max(fitting)
    broken = [one for one in final.measured if one.memory and min(one.memory) > 318e6]
    assert broken and all(one.verdict is Verdict.FAIL for one in broken)


def test_the_search_measures_on_until_one_keeps_to_it() -> None:
    """Two finalists and two rounds do not reach it; a limit that nothing keeps to ends with everything measured."""
    tight = Budget.parse([f"memory={min(law(one.schedule) for one in found().whole) / 1e6 + 0.5:.1f}MB"])
    result, processes = found(budget=tight), Processes()
    final = confirm(result, tight, measure=Machine(lambda schedule: 1.0), peaks=processes, number=1, rounds=2)
    assert final.verdict is Verdict.PASS and len(processes.asked) > 8
    one_round = confirm(result, tight, measure=Machine(lambda schedule: 1.0), peaks=Processes(), number=1, rounds=1)
    assert one_round.verdict is Verdict.FAIL and len(one_round.measured) < 6
    hopeless = confirm(result, tight, measure=Machine(lambda schedule: 1.0), peaks=Processes(more=30e6), number=1)
    assert hopeless.verdict is Verdict.FAIL and hopeless.chosen is None
    assert {one.schedule for one in hopeless.measured} == {one.schedule for one in result.whole}


def test_without_a_latency_multiply_adds_are_the_cost() -> None:
    budget = Budget.parse(["memory=318MB", "flops=6M"])
    result = found(budget=budget)
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.0), peaks=Processes(), number=1, rounds=2)
    assert final.cost == "macs" and all(one.memory for one in final.candidates)
    assert final.pick is not None and final.verdict is Verdict.PASS


def test_refusals() -> None:
    with pytest.raises(BudgetError, match="memory is of a machine, so memory=318MB needs a target"):
        found(costs=MACS_ONLY)
    with pytest.raises(BudgetError, match="memory cannot be an objective, because .* finalists alone"):
        Objectives.parse(["memory"])

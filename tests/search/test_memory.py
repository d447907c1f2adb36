"""Peak memory in a search: a ceiling that dropping may raise, an axis of the front, and the last word of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.memory_fit import memory_terms
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError, BudgetTooTight
from tavt_kit.search import Objectives, SearchResult, search
from tavt_kit.search.feasibility import feasibility_table, require_feasible
from tavt_kit.search.finalists import confirm
from tests.search.test_final import Machine, check_front
from tests.search.toy import COSTS, SPACE, answers


def law(schedule: TokenSchedule) -> float:
    """Dropping in many layers takes more than the dense model; one deep drop takes less."""
    _, choosing, doubling, widest = memory_terms(schedule, SPACE.tokens)
    return 300e6 + 2e6 * choosing + 8e6 * doubling + 20e6 * widest


SIZED = replace(COSTS, memory_bytes=law)
BUDGET = Budget.parse(["memory=314MB"])


class Processes:
    """Every schedule takes what is predicted and some more, in three processes."""

    def __init__(self, more: float = 0.0) -> None:
        self.more, self.asked = more, list[TokenSchedule]()

    def __call__(self, schedules: Sequence[TokenSchedule]) -> list[tuple[int, ...]]:
        self.asked += schedules
        return [tuple(round(law(one) + self.more + 1e4 * number) for number in range(3)) for one in schedules]


def found(*texts: str, budget: Budget = BUDGET, algorithm: str = "nsga2", evaluations: int = 60) -> SearchResult:
    objectives = Objectives.parse(texts)
    return search(
        SPACE, answers, costs=SIZED, budget=budget, objectives=objectives, algorithm=algorithm, evaluations=evaluations
    )


@pytest.mark.parametrize(
    "algorithm", ["nsga2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tavt", "random", "surrogate"))]
)
def test_every_algorithm_keeps_to_a_ceiling_that_tapers_break(algorithm: str) -> None:
    result = found(algorithm=algorithm, evaluations=40)
    assert len(result.front) and all(law(one.schedule) <= 314e6 for one in result.front)
    assert all(law(one.schedule) <= 314e6 for one in result.candidates[1:])
    assert any(one.origin == "once" for one in result.candidates)
    assert max(one.schedule.counts[0] for one in result.front) > 5


def test_memory_is_an_axis() -> None:
    result = found("memory", budget=Budget())
    points = [(law(one.schedule), one.metric) for one in result.front]
    assert result.front.cost == "memory" and points == sorted(points) and len(points) > 2
    third = found("latency", "memory", budget=Budget())
    assert third.front.more == ("memory",) and 0 < third.hypervolume < 1
    final = confirm(third, Budget(), measure=Machine(lambda schedule: 1.0), peaks=Processes())
    assert final.cost == "p50" and all(one.memory for one in final.candidates)


def test_processes_have_the_last_word() -> None:
    result, processes = found(), Processes()
    final = confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0), peaks=processes)
    assert final.verdict is Verdict.PASS and final.pick is not None and max(final.pick.memory) <= 314e6
    assert len(processes.asked) == len(set(processes.asked)) and final.tails["memory"] == pytest.approx(1.0, rel=1e-3)
    check_front(final)


def test_larger_than_predicted_the_next_best_that_fits_is_measured() -> None:
    result, processes = found(), Processes(more=3e6)
    final = confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0), peaks=processes, number=2)
    assert final.over >= 1 and final.verdict is Verdict.PASS and final.pick is not None
    assert max(final.pick.memory) <= 314e6 and final.tails["memory"] == pytest.approx(1 + 3 / 308, rel=5e-3)
    hopeless = confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0), peaks=Processes(more=30e6))
    assert hopeless.verdict is Verdict.FAIL and hopeless.chosen is None and hopeless.over > 0


def test_out_of_reach_says_what_dense_does() -> None:
    costly = replace(COSTS, memory_bytes=lambda schedule: 300e6 + 9e6 * memory_terms(schedule, SPACE.tokens)[1])
    row = feasibility_table(SPACE, costly, Budget.parse(["memory=305MB"]))[0]
    assert not row.reachable and row.note.endswith("memory=309MB; dense alone keeps to it")
    with pytest.raises(BudgetTooTight, match="cannot be met by any schedule: .* 309MB and dense 300MB"):
        require_feasible([row])
    slack = replace(costly, memory_error=0.02)
    assert slack.fits(Budget.parse(["memory=305MB"]))(SPACE.least)
    assert not replace(slack, tails={"memory": 1.01}).fits(Budget.parse(["memory=305MB"]))(SPACE.least)
    with pytest.raises(BudgetError, match="memory is of a machine"):
        search(SPACE, answers, costs=COSTS, budget=BUDGET)

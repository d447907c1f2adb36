"""Objectives: read, refused, and searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import BudgetError, DataError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import ALGORITHMS, Objectives, Progress, SearchResult, search
from tavt_kit.search.finalists import confirm
from tests.search.test_final import Machine
from tests.search.toy import COSTS, MACS_ONLY, SPACE, evaluate


def answers(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
    """Top-1 of the toy, and an agreement that only the last layers bring."""
    for schedule in schedules:
        agreed = Accuracy.of_counts(200 * schedule.counts[-1] // 26, 200, split="val", metric="agreement")
        yield schedule, EvaluationResult(evaluate(schedule), 0.01, metrics=(agreed,))


def found(*texts: str, budget: Sequence[str] = (), **named: object) -> SearchResult:
    usual = {"costs": COSTS, "evaluations": 60, "objectives": Objectives.parse(texts)}
    return search(SPACE, answers, budget=Budget.parse(budget), **(usual | named))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), (None, None)),
        (("loss",), ("likelihood", None)),
        (("macs",), (None, "macs")),
        (("throughput", "recall[a]"), ("recall[a]", "predicted")),
        (("flops", "top1"), ("top1", "macs")),
    ],
)
def test_reading(texts: tuple[str, ...], expected: tuple[object, ...]) -> None:
    read = Objectives.parse(texts)
    assert (read.metric, read.cost) == expected and read.texts == texts


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("speed",), "one of top1, top5, macro_f1"),
        (("size",), "leaves every weight"),
        (("latency", "throughput"), "one metric against one cost"),
        (("loss", "likelihood"), "one metric against one cost"),
        (("top1", "agreement", "macs"), "one metric against one cost"),
    ],
)
def test_refusals(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        Objectives.parse(texts)


def test_objectives_without_a_measure() -> None:
    with pytest.raises(BudgetError, match="objective throughput needs a target"):
        found("throughput", costs=MACS_ONLY)
    with pytest.raises(DataError, match="objective macro_f1 is not among what the evaluator answers: top1, agreement"):
        found("macro_f1")
    with pytest.raises(DataError, match="macro_f1=50% needs macro_f1, but the evaluator answers top1, agreement"):
        found(budget=["macro_f1=50%"])


def test_another_metric_leads() -> None:
    result = found("agreement", "macs")
    assert result.front.cost == "macs" and all(one.accuracy.metric == "agreement" for one in result.front)  # type: ignore[union-attr]
    assert result.dense.known("top1") is not None
    record = result.dense.as_record()
    assert record["agreement"] == 1.0 and record["others"]["top1"]["n"] == 200


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "tavt-official"])
def test_every_algorithm_weighs_the_metric_that_leads(algorithm: str) -> None:
    told: list[Progress] = []
    result = found("agreement", "latency", algorithm=algorithm, on_progress=told.append)
    points = [(one.cost("predicted"), -one.metric) for one in result.front]
    assert not any(all(a <= b for a, b in zip(x, y, strict=True)) for x in points for y in points if x != y)
    assert list(result.history) == sorted(result.history) and 0 < result.hypervolume < 1
    assert [one.candidate for one in told] == list(result.candidates)
    assert len(result.clock) == 60 and list(result.clock) == sorted(result.clock)
    final = confirm(result, Budget(), measure=Machine(lambda schedule: 1.1))
    assert final.cost == "p50" and final.pick is not None and len(final.candidates) > 2


def test_a_floor_on_another_metric_and_a_drop() -> None:
    """``drop`` is of top-1, whatever leads."""
    result = found("agreement", budget=["drop=20"])
    chosen = result.ranked(Budget.parse(["drop=20"]))[0]
    top1, dense = chosen.known("top1"), result.dense.known("top1")
    assert top1 is not None and dense is not None and top1.value >= dense.value - 0.2 - 1e-9


def test_throughput_and_macs_with_a_latency_budget() -> None:
    budget = Budget.parse(["throughput=125/s"])  # 8 ms at batch 1
    result = found("macs", budget=["throughput=125/s"])
    assert result.front.cost == "macs" and all(one.cost("predicted") <= 8 * 1.03 for one in result.front)
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.1), number=2)
    assert final.verdict is Verdict.PASS and final.pick is not None and final.pick.cost("p50") <= 8
    slow = confirm(result, budget, measure=Machine(lambda schedule: 40 / (COSTS.predicted(schedule) or 1)))
    assert slow.verdict is not Verdict.PASS


def test_the_official_algorithm_goes_by_its_own_formula() -> None:
    asked: list[TokenSchedule] = []

    def formula(schedule: TokenSchedule) -> int:
        asked.append(schedule)
        return COSTS.macs(schedule)

    costs = replace(MACS_ONLY, official_macs=formula)
    result = found(costs=costs, algorithm="tavt-official", evaluations=40, budget=["flops=2M"])
    assert asked and result.evaluations == 40
    assert all(one.macs <= 2e6 for one in result.front)
    assert {one.origin for one in result.candidates} == {"dense", "tavt-official"}

"""Confirmation by measurement: what is chosen really fits, or the verdict says that nothing does."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest

from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Budget, Verdict
from tavt_kit.core.front import dominates
from tavt_kit.core.latency_bounds import latency_bounds
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import SearchResult, finalists, search
from tavt_kit.search.finalists import Final, confirm
from tavt_kit.search.record import FRONT_FILE, front_body, write_candidates
from tests.search.toy import COSTS, MACS_ONLY, SPACE, answers

BUDGET = Budget.parse(["latency=8ms"])


class Machine:
    """Measures what the table predicts, times a factor; remembers what it was asked."""

    def __init__(self, factor: Callable[[TokenSchedule], float]) -> None:
        self.factor = factor
        self.asked: list[TokenSchedule] = []
        self.calls = 0

    def __call__(self, schedules: Sequence[TokenSchedule]) -> list[Measurement]:
        self.calls += 1
        self.asked += schedules
        return [Measurement(((COSTS.predicted(one) or 0.0) * self.factor(one),) * 80, steady=True) for one in schedules]


def found(budget: Budget = BUDGET, evaluations: int = 80) -> SearchResult:
    return search(SPACE, answers, costs=COSTS, budget=budget, evaluations=evaluations, population=12)


def check_front(final: Final) -> None:
    points = [(one.cost(final.cost), one.metric) for one in final.candidates]
    assert points == sorted(points)
    assert not any(dominates(a, b) for a in points for b in points)


def test_true_predictions() -> None:
    result, machine = found(), Machine(lambda schedule: 1.0)
    final = confirm(result, BUDGET, measure=machine, number=6)
    assert final.verdict is Verdict.PASS and final.pick is not None
    assert machine.calls == 1 and machine.asked[0] == SPACE.dense
    assert final.cost == "p90" and final.pick.cost("p90") <= 8
    fitting = [one.metric for one in result.front if one.cost("predicted") <= 8]
    assert final.pick.metric == max(fitting)
    assert [one.origin for one in final.baselines] == ["dense", "taper", "stages"]
    assert all(one.latency is not None and one.verdict is not None for one in final.candidates)
    check_front(final)


def test_slower_than_predicted_the_next_best_that_fits_is_measured() -> None:
    result, machine = found(), Machine(lambda schedule: 1.12)
    final = confirm(result, BUDGET, measure=machine, number=2)
    assert final.verdict is Verdict.PASS and final.pick is not None and final.pick.cost("p90") <= 8
    assert machine.calls == 2 and final.over >= 1
    assert any(one.verdict is Verdict.FAIL for one in final.candidates)
    best = max(one.metric for one in result.candidates if one.cost("predicted") * 1.12 <= 0.98 * 8)
    assert final.pick.metric == best
    check_front(final)


@pytest.mark.parametrize(("second", "taken"), [(0.9, True), (1.2, False)])
def test_what_lies_about_the_limit_is_measured_once_more_before_it_is_left(second: float, taken: bool) -> None:
    result = found()
    best = max(result.front, key=lambda one: one.metric).schedule
    asked: list[TokenSchedule] = []

    def measure(schedules: Sequence[TokenSchedule]) -> list[Measurement]:
        asked.extend(schedules)
        times = {one: (0.8 * (COSTS.predicted(one) or 0.0),) * 80 for one in schedules}
        if best in times:  # a tenth of the first time is slow
            times[best] = (7.5,) * 70 + (8.5,) * 10 if asked.count(best) == 1 else (8 * second,) * 80
        return [Measurement(times[one], steady=True) for one in schedules]

    final = confirm(result, BUDGET, measure=measure, number=6)
    assert asked.count(best) == 2 and final.pick is not None
    assert (final.pick.schedule == best) == taken and final.verdict is Verdict.PASS
    latency = next(one.latency for one in final.measured if one.schedule == best)
    assert latency is not None and latency.median == pytest.approx(8 * second)


@pytest.mark.slow
def test_the_best_of_many_at_the_limit_is_rarely_called_within_it() -> None:
    """Every finalist truly lies at the limit; the choice goes by the measurements that its verdict is of."""
    result, rng = found(), np.random.default_rng(0)

    def measure(schedules: Sequence[TokenSchedule]) -> list[Measurement]:
        times = rng.normal(1.0, 0.03, (len(schedules), 200)) * 8 / (1 + 1.2816 * 0.03)  # their p90 is 8 ms
        times[0] = 40.0 if schedules[0] == SPACE.dense else times[0]
        return [Measurement(tuple(row), steady=True) for row in times.tolist()]

    finals = [confirm(result, BUDGET, measure=measure, number=8, rounds=2) for _ in range(100)]
    least = [final.measured[1:] for final in finals]  # the first is the dense model
    assert min(one.latency.among for each in least for one in each if one.latency is not None) >= 8
    alone = [[replace(one.latency, among=1) for one in each if one.latency is not None] for each in least]
    # As if each were alone, one search in twenty is not kept; by chance more than ten of 100 pass once in 87 times.
    assert sum(any(latency_bounds(one)[1] <= 8 for one in each) for each in alone) > 5
    assert sum(final.verdict is Verdict.PASS for final in finals) <= 10


def test_groups_measured_at_another_pace_are_put_to_one() -> None:
    """A machine that slows down by a fifth between two groups says nothing about the schedules."""
    machine = Machine(lambda schedule: 1.12 * (1.2 if machine.calls > 1 else 1.0))
    final = confirm(found(), BUDGET, measure=machine, number=2)
    assert machine.calls > 1
    ratios = [one.cost("p50") / one.cost("predicted") for one in final.measured]
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) and ratios[0] == pytest.approx(1.12 * 1.2)
    speed_factors = {one.latency.speed_factor for one in final.measured if one.latency is not None}
    assert max(speed_factors) / min(speed_factors) == pytest.approx(1.2)


def test_finalists_are_evaluated_anew() -> None:
    from tavt_kit.core.accuracy import Accuracy

    anew = Accuracy.of_counts(77, 100, split="val")
    exact = (lambda schedule: EvaluationResult(anew, 0.1), lambda schedule: PairedDifference.of_counts(0, 0, 100))
    final = confirm(found(), BUDGET, measure=Machine(lambda schedule: 1.0), exact=exact)
    assert final.candidates and all(one.accuracy == anew for one in (*final.baselines, *final.candidates))
    assert len(final.candidates) == 1  # all are as good, so the quickest dominates


def test_a_finalist_that_fails_in_the_targets_precision_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said = list[str]()
    monkeypatch.setattr(finalists, "_log", SimpleNamespace(warning=lambda text, *rest: said.append(text % rest)))
    result = found()
    best = confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0)).pick
    assert best is not None
    worth = {one.schedule: one.accuracy for one in result.candidates}

    def exact(schedule: TokenSchedule) -> EvaluationResult:
        failed = schedule == best.schedule
        return EvaluationResult(None, 0.1, "not finite") if failed else EvaluationResult(worth[schedule], 0.1)

    none = PairedDifference.of_counts(0, 0, 100)
    final = confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0), exact=(exact, lambda schedule: none))
    assert final.pick is not None and best.schedule not in {one.schedule for one in final.candidates}
    assert len(said) == 1 and "left out of the result" in said[0] and "not finite" in said[0]
    dense = (lambda schedule: EvaluationResult(None, 0.1, "not finite"), lambda schedule: none)
    with pytest.raises(MeasurementError, match="precision of the target"):
        confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0), exact=dense)


def test_nothing_fits() -> None:
    machine = Machine(lambda schedule: 1.5 + 100 / sum(schedule.counts))
    final = confirm(found(), Budget.parse(["latency=8ms"]), measure=machine, number=4, rounds=3)
    assert machine.calls <= 3
    hopeless = confirm(found(), BUDGET, measure=Machine(lambda schedule: 50 / (COSTS.predicted(schedule) or 1)))
    assert hopeless.verdict is Verdict.FAIL and hopeless.chosen is None and hopeless.candidates
    check_front(final)


def test_floor_takes_the_cheapest_and_prefers_the_proven() -> None:
    budget = Budget.parse(["drop=5"])
    result = found(budget)
    worth = {one.schedule: one.metric for one in result.candidates}

    def compare(schedule: TokenSchedule) -> PairedDifference:
        lost = round(2000 * (result.dense.metric - worth[schedule]))
        return PairedDifference.of_counts(max(0, -lost), max(0, lost), 2000)

    known = {one.schedule: EvaluationResult(one.accuracy, 0.0) for one in result.candidates}
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.0), compare=compare, number=12, held_out=True,
                    exact=(known.__getitem__, compare))  # fmt: skip
    assert final.pick is not None and final.pick.difference is not None
    passing = [one for one in final.candidates if one.verdict is Verdict.PASS]
    assert final.verdict is Verdict.PASS and final.pick == passing[0]
    strict = Budget.parse(["top1=85%"])
    unproven = confirm(found(strict), strict, measure=Machine(lambda schedule: 1.0))
    assert unproven.verdict in (Verdict.INCONCLUSIVE, Verdict.FAIL)


def test_pure_macs_search_measures_nothing() -> None:
    budget = Budget.parse(["flops=3M"])
    result = search(SPACE, answers, costs=MACS_ONLY, budget=budget, evaluations=40)
    final = confirm(result, budget, measure=None)
    assert final.verdict is Verdict.PASS and len(final.candidates) == len(result.front) and final.cost == "macs"
    assert all(one.as_record()["latency_ms"] is None for one in final.candidates)
    assert final.baselines[0].verdict is Verdict.FAIL  # dense
    check_front(final)


def test_macs_budget_with_a_target_measures_some_and_keeps_the_front() -> None:
    budget = Budget.parse(["flops=3M"])
    result = search(SPACE, answers, costs=COSTS, budget=budget, evaluations=40)
    final = confirm(result, budget, measure=Machine(lambda schedule: 1.0), number=3)
    assert len(final.candidates) == len(result.front)
    assert 3 <= sum(one.latency is not None for one in final.candidates) < len(final.candidates)


def test_records(tmp_path: Path) -> None:
    result = found()
    final = confirm(result, BUDGET, measure=Machine(lambda schedule: 1.0))
    body = front_body(result, final, model={"name": "toy"}, budget=BUDGET, target=COSTS.target, seed=0)
    write_record(tmp_path / FRONT_FILE, "front", body)
    record = json.loads((tmp_path / "front.json").read_text())
    assert record["schema"] == "fgvc-kit/front" and record["version"] == 2
    for key, value in {
        "model": {"name": "toy"}, "budgets": ["latency=8ms"], "split": "val", "metric": "top1", "seed": 0,
        "evaluations": 80, "verdict": "PASS",
    }.items():  # fmt: skip
        assert record[key] == value
    assert record["hypervolume"] == result.hypervolume and record["target"]["runtime"] == "torch"
    assert record["candidates"][record["chosen"]]["verdict"] == "PASS"
    latencies = [one["latency_ms"]["p90"] for one in record["candidates"]]
    assert latencies == sorted(latencies)
    rows = list(csv.DictReader(write_candidates(tmp_path, result, final).read_text().splitlines()))
    assert len(rows) == 80 and rows[0]["origin"] == "dense"
    assert sum(int(row["on_front"]) for row in rows) == len(final.candidates)
    parsed = TokenSchedule.parse(rows[7]["schedule"], SPACE.layout)
    assert parsed == result.candidates[7].schedule


def test_every_measured_finalist_is_recorded_with_its_raw_samples_and_their_factor() -> None:
    """What a slower second group did to the times can be undone; nobody who was measured is left out."""
    machine = Machine(lambda schedule: 1.12 * (1.2 if machine.calls > 1 else 1.0))
    result = found()
    final = confirm(result, BUDGET, measure=machine, number=2)
    body = front_body(result, final, model={}, budget=BUDGET, target=COSTS.target, seed=0)
    assert {tuple(one["schedule"]) for one in body["measured"]} == {one.counts for one in machine.asked}
    assert sorted({round(one["latency_ms"]["pace"], 6) for one in body["measured"]}) == [1.0, 1.2]
    for one in (*body["measured"], *body["candidates"], *body["baselines"]):
        times = one["latency_ms"]
        assert len(times["raw_ms"]) == times["samples"] and sum(times["rounds"]) in (0, times["samples"])
        assert median(times["raw_ms"]) * times["pace"] == pytest.approx(times["median"])
    first = next(one for one in body["measured"] if one["origin"] == "dense")
    assert first["latency_ms"]["raw_ms"][0] == pytest.approx(1.12 * (COSTS.predicted(SPACE.dense) or 0), rel=1e-6)
    nothing = confirm(result, BUDGET, measure=None)
    assert "measured" not in front_body(result, nothing, model={}, budget=BUDGET, target=None, seed=0)


@pytest.mark.parametrize("number", [1, 2, 5, 100])
def test_number_bounds_the_first_round(number: int) -> None:
    machine, result = Machine(lambda schedule: 1.0), found()
    confirm(result, BUDGET, measure=machine, number=number, rounds=1)
    assert len(machine.asked) <= min(number, len(result.front)) + 3
    assert len(machine.asked) == len(set(machine.asked))


def test_what_no_time_was_left_for_is_told_and_not_chosen() -> None:
    """The best that is predicted to fit comes first; what was not measured stands in the record, never on the front."""
    result = found()
    honest = Machine(lambda schedule: 1.0)

    def hurried(schedules: Sequence[TokenSchedule]) -> list[Measurement | None]:
        return [*honest(schedules[:2]), *[None for _ in schedules[2:]]]

    final = confirm(result, BUDGET, measure=hurried, number=6)
    best = max((one for one in result.front if one.cost("predicted") <= 8), key=lambda one: one.metric)
    assert honest.asked == [SPACE.dense, best.schedule] and honest.calls == 1
    assert final.pick is not None and final.pick.schedule == best.schedule and final.verdict is Verdict.PASS
    left = {one.schedule for one in final.not_measured}
    assert len(left) >= 5 and not left & {one.schedule for one in (*final.measured, *final.candidates)}
    body = front_body(result, final, model={}, budget=BUDGET, target=COSTS.target, seed=0)
    assert {tuple(one["schedule"]) for one in body["not_measured"]} == {one.counts for one in left}
    assert all(one["latency_ms"]["predicted"] for one in body["not_measured"])

    slow = Machine(lambda schedule: 3.0)
    undecided = confirm(
        result, BUDGET, measure=lambda asked: [*slow(asked[:2]), *[None for _ in asked[2:]]], number=6, rounds=1
    )
    assert undecided.pick is None and undecided.verdict is Verdict.INCONCLUSIVE


def test_where_the_dense_model_alone_was_evaluated_nothing_is_decided() -> None:
    assert confirm(found(evaluations=1), BUDGET, measure=Machine(lambda schedule: 1.0)).verdict is Verdict.INCONCLUSIVE

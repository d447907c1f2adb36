"""Racing on made-up bits: who is stopped, how surely, and that a search stopped anywhere ends the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import SearchResult, Store, search
from tavt_kit.search.finalists import confirm
from tavt_kit.search.racing import ESTIMATE, Bits, Look, Race, is_beaten, stages
from tests.search.toy import MACS_ONLY, SPACE

IMAGES = 600


def answer(bits: Bits) -> EvaluationResult:
    return EvaluationResult(Accuracy.of_counts(int(bits.sum()), len(bits), split="val"), 1.0, correct=bits)


def showing(bits: Bits) -> Look:
    """The same bits for every schedule."""
    return lambda schedules, start, stop: [(schedule, answer(bits[start:stop])) for schedule in schedules]


class Model:
    """Each image is right as long as enough tokens are kept for it, save for some noise; counts what is looked at."""

    def __init__(self) -> None:
        self.need = np.random.default_rng(0).beta(1.2, 2.5, IMAGES)
        self.looked = 0

    def bits(self, schedule: TokenSchedule) -> Bits:
        worth = np.mean([1 - np.exp(-3 * count / 26) for count in schedule.counts])
        noise = np.random.default_rng(sum(schedule.counts)).normal(0, 0.05, IMAGES)
        right: Bits = self.need + noise < worth
        return right

    def look(
        self, schedules: Sequence[TokenSchedule], start: int, stop: int
    ) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        self.looked += (stop - start) * len(schedules)
        for schedule in schedules:
            yield schedule, answer(self.bits(schedule)[start:stop])

    def race(self, confidence: float = 0.9, first: int = 75) -> Race:
        return Race(self.look, MACS_ONLY.macs, IMAGES, first, confidence)


def found_by(race: Race, evaluations: int = 160, store: Store | None = None, population: int = 8) -> SearchResult:
    return search(SPACE, race, costs=MACS_ONLY, evaluations=evaluations, population=population, store=store,
                  learn=race.update)  # fmt: skip


def test_stages() -> None:
    assert stages(128, 525) == (128, 256, 525) and stages(300, 525) == (525,) and stages(1, 4) == (1, 2, 4)
    with pytest.raises(DataError, match="one image or more"):
        stages(0, 10)


@pytest.mark.parametrize("confidence", [0.75, 0.9])
def test_few_that_are_better_are_stopped(confidence: float) -> None:
    """On random pairs that are equally good, as often as promised at most; of those far behind, nearly all."""
    rng = np.random.default_rng(0)
    stopped = {0.0: 0, 0.08: 0}
    better = 0
    for worse in stopped:
        for _ in range(800):
            incumbent = rng.random(500) < 0.7
            flips = rng.random(500) < 0.15 + worse
            candidate = np.where(flips, rng.random(500) < 0.7 - 3 * worse, incumbent)
            beaten = is_beaten(candidate[:125], incumbent, confidence)
            if worse:
                stopped[worse] += beaten
            elif candidate.sum() > incumbent.sum():
                better += 1
                stopped[worse] += beaten
    assert better > 200 and stopped[0.0] / better < 1 - confidence
    assert stopped[0.08] / 800 > 0.7


def test_at_the_end_nothing_is_left_to_doubt() -> None:
    incumbent = np.arange(100) < 60
    assert is_beaten(np.arange(90) < 48, incumbent, 0.99)  # 12 behind, 10 to come
    assert is_beaten(incumbent[:99] & (np.arange(99) != 5), incumbent, 0.99)  # 1 behind, 1 to come: equal at best
    assert not is_beaten(incumbent[:99], incumbent, 0.6)


def test_a_race_looks_at_less_and_finds_the_same_front() -> None:
    whole, raced = Model(), Model()
    plain = found_by(whole.race(first=IMAGES))
    quick = found_by(raced.race())
    assert raced.looked < 0.85 * whole.looked and whole.looked == 160 * IMAGES
    assert quick.hypervolume > plain.hypervolume - 0.005
    stopped = [one for one in quick.candidates if one.accuracy is not None and one.accuracy.n < IMAGES]
    assert len(stopped) > 40 and set(quick.estimates) == {one.schedule for one in stopped}
    assert {one.accuracy.n for one in stopped if one.accuracy} <= {75, 150, 300}


def test_what_was_stopped_is_on_no_front_and_no_baseline() -> None:
    result = found_by(Model().race(confidence=0.6, first=30))
    final = confirm(result, Budget(), measure=None)
    shown = (*result.front, *final.candidates, *final.baselines)
    assert {one.accuracy.n for one in shown if one.accuracy} == {IMAGES}
    assert {"dense", "stages"} <= {one.origin for one in final.baselines}  # each taper was stopped
    assert len(result.whole) + len(result.estimates) == result.evaluations


def test_no_better_one_is_lost_to_easy_first_images() -> None:
    """A stopped candidate is told as worse than its incumbent, even where the first images are easy."""
    incumbent = np.concatenate([np.ones(100, bool), np.zeros(100, bool)])
    race = Race(showing(np.arange(200) % 5 > 0), lambda schedule: 1.0, 200, 50)
    race.update([(TokenSchedule((5, 4)), answer(incumbent))])
    ((_, found),) = race([TokenSchedule((5, 5))])
    assert found.accuracy is not None and found.accuracy.value == 0.8 and found.accuracy.n == 50
    assert found.values[ESTIMATE] == pytest.approx(0.3)  # 0.5, less 0.2


def test_the_incumbent_costs_no_more() -> None:
    costly, cheap = np.ones(200, bool), np.arange(200) % 2 == 0
    race = Race(showing(cheap), lambda schedule: sum(schedule.counts), 200, 50)
    race.update([(TokenSchedule((5, 5)), answer(costly))])
    found = dict(race([TokenSchedule((5, 4)), TokenSchedule((6, 5))]))
    assert {schedule: one.accuracy.n for schedule, one in found.items() if one.accuracy} == {
        TokenSchedule((5, 4)): 200, TokenSchedule((6, 5)): 50}  # fmt: skip
    assert found[TokenSchedule((5, 4))].values == {}


def test_a_failure_is_an_answer() -> None:
    nothing = EvaluationResult(None, 1.0, "no memory")
    race = Race(lambda schedules, start, stop: [(one, nothing) for one in schedules], lambda schedule: 1.0, 200, 50)
    assert [found.failure for _, found in race([TokenSchedule((5, 5))])] == ["no memory"]
    with pytest.raises(DataError, match=r"between 0\.5 and 1"):
        Race(race.look, race.cost, 200, 50, confidence=1.0)


class Stopped(BaseException):
    """As a kill in the middle of a generation."""


@pytest.mark.parametrize("after", [1, 9, 13, 30, 47])
def test_stopped_and_continued_ends_the_same(after: int, tmp_path: Path) -> None:
    expected = found_by(Model().race(), evaluations=64)
    with Store(tmp_path / "search.db") as store:
        add, left = store.add, after

        def dying(schedule: TokenSchedule, answer: EvaluationResult) -> None:
            nonlocal left
            if not left:
                raise Stopped
            left -= 1
            add(schedule, answer)

        store.add = dying  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            found_by(Model().race(), evaluations=64, store=store)
    with Store(tmp_path / "search.db") as store:
        assert len(store) == after
        result = found_by(Model().race(), evaluations=64, store=store)
    assert result.candidates == expected.candidates and result.history == expected.history
    assert result.estimates == expected.estimates


def test_a_longer_search_goes_on_from_a_raced_one() -> None:
    model = Model()
    race = model.race()
    first = found_by(race, evaluations=60)
    further = search(SPACE, race, costs=MACS_ONLY, evaluations=100, population=8, after=first, learn=race.update)
    assert further.candidates[:60] == first.candidates and set(first.estimates) <= set(further.estimates)
    assert {one.accuracy.n for one in further.front if one.accuracy} == {IMAGES}

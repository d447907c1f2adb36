"""search(): the schedules of a model that keep to a budget, found without ever seeing the model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.configuration import Choice
from tavt_kit.core.front import ParetoFront
from tavt_kit.core.parsing import bounded
from tavt_kit.errors import BudgetError, DataError, MeasurementError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search.algorithms import make_algorithm
from tavt_kit.search.algorithms.base import POPULATION, Outcome
from tavt_kit.search.feasibility import Costs, feasibility_table, refuse_unsearchable, require_feasible
from tavt_kit.search.objectives import Objectives, Progress, SearchResult, by_preference, is_whole, leading, shortfall
from tavt_kit.search.racing import ESTIMATE
from tavt_kit.search.space import Space
from tavt_kit.search.store import Store

Evaluate = Callable[[Sequence[Any]], Iterable[tuple[Any, EvaluationResult]]]
"""Answers different schedules, each exactly once, in any order, as they finish; accuracies on the split ``val``.

What fails for one schedule alone (a logit that is not finite, memory that runs out) is an answer with a failure.
Where a bound is reached, the rest is not asked for any more: a generator is closed.
"""

_log = logging.getLogger(__name__)


class Answered(NamedTuple):
    """A schedule with its answer."""

    schedule: Choice
    answer: EvaluationResult
    replayed: bool


def one_by_one(evaluate: Callable[[Any], Accuracy]) -> Evaluate:
    """An evaluator of many schedules from a function that gives the accuracy of one on the split ``val``.

    A MeasurementError or a MemoryError counts as a failure of that schedule alone.

    Example:
        >>> from tavt_kit.core.schedule import TokenSchedule
        >>> answers = one_by_one(lambda schedule: Accuracy.of_counts(3, 4, split="val"))
        >>> [(str(schedule), answer.accuracy.value) for schedule, answer in answers([TokenSchedule((5, 4))])]
        [('5,4', 0.75)]
    """

    def answers(schedules: Sequence[Choice]) -> Iterator[tuple[Choice, EvaluationResult]]:
        for schedule in schedules:
            begin = time.monotonic()
            try:
                accuracy, failure = evaluate(schedule), None
            except (MeasurementError, MemoryError) as error:
                accuracy, failure = None, str(error) or "the memory ran out"
            yield schedule, EvaluationResult(accuracy, time.monotonic() - begin, failure)

    return answers


def in_order(schedules: Sequence[Choice], evaluate: Evaluate, store: Store) -> Generator[Answered]:
    """The answers in the order of the schedules, from the store or evaluated; close the iterator to abandon the rest.

    Each is stored as it comes, and given out once all before it are there: what follows does not depend on which
    finished first. Raises DataError for another split than ``val``, RuntimeError where the evaluator left a schedule
    out, or answered one that it was not asked.
    """
    known = {schedule: answer for schedule in schedules if (answer := store.get(schedule)) is not None}
    waiting = [schedule for schedule in schedules if schedule not in known]
    missing, answers = set(waiting), dict[Choice, EvaluationResult]()
    coming: Iterator[tuple[Choice, EvaluationResult]] | None = None
    try:
        for schedule in schedules:
            if schedule in known:
                yield Answered(schedule, known[schedule], replayed=True)
                continue
            coming = coming or iter(evaluate(waiting))  # nothing runs before the first is asked for
            while schedule not in answers:
                if (came := next(coming, None)) is None:
                    raise RuntimeError(f"the evaluator left {len(missing)} of {len(waiting)} schedules unanswered")
                choice, answer = came
                if choice not in missing:
                    raise RuntimeError(f"the evaluator answered {choice}, which it was not asked, or answered before")
                if answer.failure is not None:
                    _log.warning("the evaluation of %s failed and is left out: %s", choice, answer.failure)
                for accuracy in (answer.accuracy, *answer.metrics):
                    if accuracy is not None and accuracy.split != "val":
                        raise DataError(
                            f"a search selects on the split 'val' only, but got an accuracy of {accuracy.split!r}"
                        )
                store.add(choice, answer)
                missing.discard(choice)
                answers[choice] = answer
            yield Answered(schedule, answers[schedule], replayed=False)
    finally:
        if isinstance(coming, Generator):
            coming.close()


Learn = Callable[[Sequence[tuple[Choice, EvaluationResult]]], None]
"""Told the answers of a generation when all have come."""


@dataclass(slots=True)
class _Run:
    evaluate: Evaluate
    costs: Costs
    budget: Budget
    objectives: Objectives
    store: Store
    fits: Callable[[Any], bool]
    front: ParetoFront
    limit: int | None
    max_seconds: float | None
    time_left: Callable[[], float]
    on_progress: Callable[[Progress], None] | None
    learn: Learn | None
    candidates: list[Candidate] = field(default_factory=list)
    known: dict[Choice, Candidate] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    estimates: dict[Choice, float] = field(default_factory=dict)
    clock: list[float] = field(default_factory=list)
    seconds: float = 0.0
    seconds_each: float | None = None
    """Seconds of one evaluation, by the last that were asked for together."""
    together: int = 2
    """Schedules asked for at once at most where the clock is bounded."""

    @property
    def dense(self) -> Candidate:
        return self.candidates[0]

    def why_stop(self) -> str:
        """Why the search ends here, or nothing."""
        if self.limit is not None and len(self.candidates) >= self.limit:
            return f"{self.limit} evaluations are done"
        spent = self.max_seconds is not None and self.seconds >= self.max_seconds
        return "the time is used up" if spent or (self.candidates and self.time_left() <= 0) else ""

    def answer(self, asked: Sequence[tuple[Choice, str]]) -> list[Candidate]:
        """The candidates of schedules with their origins, in their order; fewer where a bound is reached first."""
        new = list(dict.fromkeys(schedule for schedule, _ in asked if schedule not in self.known))
        if self.limit is not None:
            new = new[: max(0, self.limit - len(self.candidates))]
        candidates, heard = list[Candidate](), list[tuple[Choice, EvaluationResult]]()
        with closing(self._coming(new)) as coming:
            for schedule, origin in asked:
                if schedule not in self.known:
                    if self.why_stop():
                        break
                    answered = next(coming)
                    self._take(answered, origin)
                    heard.append((schedule, answered.answer))
                candidates.append(self.known[schedule])
        if self.learn is not None:
            self.learn(heard)
        return candidates

    def _coming(self, new: Sequence[Choice]) -> Generator[Answered]:
        """The answers in order, of no more at once than there is time for.

        Evaluators answer many together, in one pass: what is asked too much of them is time spent on nothing.
        """
        while new:
            number, begin, fresh = len(new), time.monotonic(), list[float]()
            if self.seconds_each is not None and (left := self._seconds_left()) < math.inf:
                number = max(1, int(left / max(self.seconds_each, 1e-9)))
            if self.time_left() < math.inf:  # the first of a kind may take far longer than those before it
                number, self.together = min(number, self.together), 2 * self.together
            try:
                with closing(in_order(new[:number], self.evaluate, self.store)) as some:
                    for answered in some:
                        if not answered.replayed:
                            fresh.append(answered.answer.seconds)
                        yield answered
            finally:
                if fresh:  # what is made for an evaluation takes time too, and is no part of its own
                    self.seconds_each = max(sum(fresh), time.monotonic() - begin) / len(fresh)
            new = new[number:]

    def _seconds_left(self) -> float:
        """Seconds for evaluations, by either bound on the time."""
        own = math.inf if self.max_seconds is None else max(0.0, self.max_seconds - self.seconds)
        return min(own, self.time_left())

    def _take(self, answered: Answered, origin: str) -> None:
        schedule, answer, replayed = answered
        accuracy: Accuracy | None = None
        others: tuple[Accuracy, ...] = ()
        if answer.accuracy is not None:
            accuracy, others = leading(self.objectives.metric, (answer.accuracy, *answer.metrics))
        candidate = Candidate(
            schedule, self.costs.macs(schedule), accuracy, self.costs.predicted(schedule), target=self.costs.target,
            origin=origin, others=others,
        )  # fmt: skip
        self.seconds += answer.seconds
        self.candidates.append(candidate)
        self.known[schedule] = candidate
        if ESTIMATE in answer.values:
            self.estimates[schedule] = answer.values[ESTIMATE]
        self.offer(candidate)
        self.history.append(self.front.hypervolume(self.dense))
        self.clock.append(self.seconds)
        if self.on_progress is None:
            return
        left = self._seconds_left()
        if self.limit is not None:
            each = self.seconds / len(self.candidates) if self.seconds_each is None else self.seconds_each
            left = min(left, max(0, self.limit - len(self.candidates)) * each)
        best = next(iter(by_preference(self.front, self.budget, self.dense)), None)
        if best is not None and shortfall(best, self.budget, self.dense):
            best = None
        self.on_progress(
            Progress(
                len(self.candidates), self.limit, len(self.front), self.history[-1], best, self.seconds,
                None if left == math.inf else left, replayed, candidate,
            )
        )  # fmt: skip

    def offer(self, candidate: Candidate) -> None:
        """To the front, if it fits; what was stopped early is known by a part of the images, and never on it."""
        if self.fits(candidate.schedule) and is_whole(candidate, self.dense):
            self.front.add(candidate)

    def outcome(self, candidate: Candidate) -> Outcome:
        """What the algorithm is told of a candidate."""
        metric = self.estimates.get(candidate.schedule, candidate.metric)
        missed = 0.0 if math.isnan(metric) else shortfall(candidate, self.budget, self.dense, metric)
        return Outcome(candidate.cost(self.front.cost), metric, missed)


@bounded
def search(
    space: Space,
    evaluate: Evaluate,
    *,
    costs: Costs,
    budget: Budget | None = None,
    algorithm: str = "nsga2",
    objectives: Objectives | None = None,
    evaluations: int | None = 400,
    max_seconds: float | None = None,
    time_left: Callable[[], float] = lambda: math.inf,
    population: int | None = None,
    seed: int = 0,
    seeds: Sequence[Choice] = (),
    baselines: Mapping[Choice, str] = MappingProxyType({}),
    tolerance: float = 0.03,
    store: Store | None = None,
    after: SearchResult | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    learn: Learn | None = None,
) -> SearchResult:
    """Find the most accurate schedules for their cost within the ceilings of a budget.

    The dense model is evaluated first, then only schedules whose known or predicted cost keeps to the ceilings
    (``tavt-official`` alone knows none: of what it evaluates, the front holds what keeps to them). Every answer is
    stored the moment it comes. With a store of a run that was stopped anywhere, the same call gives the very same
    result as an uninterrupted one: the algorithm replays its seed over the stored answers.

    Args:
        evaluate: Answers the schedules of a generation on the split ``val``; see ``one_by_one``.
        budget: Ceilings on ``latency``, ``throughput`` and ``flops``, floors on ``drop`` and on metrics. With a floor
            the choice falls on the cheapest candidate that keeps to it, else on the most accurate.
        algorithm: One of ``ALGORITHMS``, with its ``population``, ``seed`` and schedules of the user (``seeds``).
        objectives: Axes of the front; ``None`` for the evaluator's own metric against latency or multiply-adds.
        evaluations: Number of schedules, the dense one included; ``None`` for no bound.
        max_seconds: Seconds of evaluation, summed over all runs on the same store; ``None`` for no bound.
        time_left: Seconds by the clock in which to evaluate, asked again and again; where it is 0 the search ends.
        baselines: Configurations that are evaluated whatever they cost, with the origin of each, after the dense one.
        tolerance: Share by which a predicted latency may exceed its ceiling, because predictions err.
        after: An earlier result of the same search to go on from, where the costs turned out otherwise.
        learn: Told the answers of each generation when all have come, stored ones too (``Race.update``).

    Raises:
        BudgetError: A limit that a search does not act on, no bound at all or one below 1, a seed that is no whole
            number, a latency without a target, or what the algorithm does not know.
        BudgetTooTight: No schedule keeps to a ceiling; nothing has been evaluated.
        DataError: An accuracy of another split than ``val``, or a metric that the evaluator does not answer.
        RecordError: The store belongs to another search.
        MeasurementError: The dense model itself could not be evaluated.

    Example:
        >>> from tavt_kit.core.accuracy import Accuracy
        >>> from tavt_kit.search import one_by_one
        >>> from tavt_kit.core.layout import TokenLayout
        >>> space = Space(TokenLayout(17, 4))
        >>> def evaluate(schedule):
        ...     return Accuracy.of_counts(sum(schedule.counts), 68, split="val")
        >>> costs = Costs(macs=lambda schedule: sum(n * n for n in schedule.counts))
        >>> budget = Budget.parse(["flops=600"])
        >>> result = search(space, one_by_one(evaluate), costs=costs, budget=budget, evaluations=60)
        >>> result.ranked(Budget())[0].macs <= 600, result.evaluations
        (True, 60)
    """
    budget = Budget() if budget is None else budget
    refuse_unsearchable(budget)
    if evaluations is None and max_seconds is None:
        raise BudgetError("a search needs a bound: a number of evaluations, a time, or both")
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise BudgetError(f"the seed of a search is a whole number, at least 0, got {seed!r}")
    if (evaluations is not None and evaluations < 1) or (max_seconds is not None and not max_seconds > 0):
        raise BudgetError(
            f"a search evaluates at least the dense model, but its bound is {evaluations} evaluations, {max_seconds} s"
        )
    objectives = (objectives or Objectives()).settled(budget, costs)
    require_feasible(feasibility_table(space, costs, budget, tolerance=tolerance))
    store = Store(None) if store is None else store
    low, official = None if space.low == space.layout.least else space.low, algorithm == "tavt-official"
    store.bind({  # what the proposals depend on, besides the answers and the costs
        "space": [*space.layout.as_record().values(), low, 1, space.layout.token_pooled],
        "budget": budget.texts(),
        "algorithm": algorithm,
        "objectives": list(objectives.texts),
        "population": population,
        "seed": seed,
        "seeds": [str(schedule) for schedule in seeds],
        "slack": tolerance,
    })  # fmt: skip
    fits = costs.fits(budget, tolerance)
    assert objectives.cost is not None  # settled
    front = ParetoFront(objectives.cost)
    run = _Run(
        evaluate, costs, budget, objectives, store, fits, front, evaluations, max_seconds, time_left, on_progress, learn
    )
    seeds = [*seeds, *(filter(fits, baselines) if space.extras else ())]  # else they are none of the space
    if after is not None:
        run.candidates, run.history, run.seconds = list(after.candidates), list(after.history), after.seconds
        run.estimates, run.clock = dict(after.estimates), list(after.clock)
        run.known = {candidate.schedule: candidate for candidate in after.candidates}
        for candidate in after.candidates:
            run.offer(candidate)
        best = by_preference(front, budget, after.dense)[: (POPULATION if population is None else population) // 2]
        seed, seeds = seed + 1, [] if official else [candidate.schedule for candidate in best]
    chosen = make_algorithm(
        algorithm, space, seed=seed, population=population, seeds=seeds, fits=fits,
        cost=costs.by(front.cost), official_macs=costs.official_macs or costs.macs,
    )  # fmt: skip
    run.answer([(space.dense, "dense")])
    if run.known[space.dense].accuracy is None:
        why = answer.failure if (answer := store.get(space.dense)) is not None else "it failed before"
        raise MeasurementError(
            f"the dense model could not be evaluated, so there is nothing to compare with: {why}; put that right and "
            "begin anew with `fresh`"
        )
    run.answer(list(baselines.items()))
    while not (stopped := run.why_stop()):
        asked = [(schedule, chosen.origin(schedule)) for schedule in chosen.ask()]
        candidates = run.answer(asked)
        if len(candidates) < len(asked) or chosen.done():
            stopped = chosen.stopped_because if len(candidates) == len(asked) else run.why_stop()
            break
        chosen.tell([run.outcome(candidate) for candidate in candidates])
    return SearchResult(
        front, tuple(run.candidates), stopped, tuple(run.history), run.seconds, fits(space.dense),
        estimates=run.estimates, clock=tuple(run.clock),
    )  # fmt: skip

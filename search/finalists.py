"""The last word: measure the front end to end, judge it, and choose; if the first choice is too slow, the next."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.budget import Budget, Verdict, judge, worst
from tavt_kit.core.candidate import Baseline, Candidate, CostKind
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.front import ParetoFront
from tavt_kit.core.measurement import Measurement
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search.objectives import SearchResult, by_preference, leading, shortfall

Measure = Callable[[Sequence[Choice]], Sequence[Measurement | None]]
"""Whole passes under the schedules, interleaved, on the target; ``None`` for those for which no time is left."""

Evaluate = Callable[[Any], EvaluationResult]
"""An answer in the precision of the target."""

Compare = Callable[[Any], PairedDifference]
"""Candidate minus dense on the same images."""

_log = logging.getLogger(__name__)

_ORDER = (Verdict.PASS, Verdict.PREDICTED, Verdict.INCONCLUSIVE)


class FinalistPool:
    """What is known of the measured candidates so far."""

    def __init__(
        self, result: SearchResult, budget: Budget, measure: Measure | None, compare: Compare | None,
        quantile_ratios: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.result, self.budget, self.compare, self.quantile_ratios = result, budget, compare, quantile_ratios
        self.measure = measure
        statistics: dict[str | None, CostKind] = {"p50": "p50", "p90": "p90", "p99": "p99"}
        # The latency statistic that the budget is about; else the median.
        self.statistic = next((statistics[limit.statistic] for limit in budget.of("latency")), statistics["p50"])
        counts = measure is None or result.front.cost == "macs"
        self.kind: CostKind = result.front.cost if counts else self.statistic
        self.guessed: CostKind = "predicted" if result.dense.latency_predicted_ms is not None else result.front.cost
        self.known: dict[Choice, Candidate] = {}
        self.dense_medians: list[float] = []
        self.held_out: set[Choice] = set()
        self.raw: dict[Choice, tuple[Candidate, Measurement, int]] = {}
        self.failed: set[Choice] = set()
        self.again: set[Choice] = set()
        self.waiting: dict[Choice, Candidate] = {}

    def take(self, candidates: Iterable[Candidate]) -> None:
        """Measure and judge what is not known or to be measured again, and the dense model, which shows the speed.

        The dense model is first, then the best that is predicted to fit: time may run out.
        """
        dense = self.result.dense.schedule
        group = list({candidate.schedule: candidate for candidate in candidates}.values())
        group.sort(
            key=lambda model: (model.schedule == dense, self.keeps_ceilings(model), self._value(model)), reverse=True
        )
        again = {model.schedule for model in self.undecided()}
        group = [model for model in group if model.schedule not in self.known or model.schedule in (dense, *again)]
        if all(model.schedule in self.known and model.schedule not in again for model in group):
            return
        if self.measure is None:
            self.known |= {model.schedule: self.judged(model) for model in group}
            return
        times = list(zip(group, self.measure([model.schedule for model in group]), strict=True))
        self.again |= again & {model.schedule for model, time in times if time is not None}
        late = [model for model, time in times if time is None and model.schedule not in self.known]
        self.waiting |= {model.schedule: model for model in late}
        self.note([(model, time) for model, time in times if time is not None])

    def note(self, group: Sequence[tuple[Candidate, Measurement]]) -> None:
        """Judge a group, its first the dense model, and all before it, at the slowest speed of any group.

        A group is measured for many seconds, so its speed is one at which the machine does run for a while. The choice
        is made among all measurements, repeated ones too, and each is judged as one of them.
        """
        self.dense_medians.append(group[0][1].median)
        for model, time in group:
            if model.schedule not in self.raw or model.schedule in self.again:  # the dense model's first time stands
                self.raw[model.schedule] = model, time, len(self.dense_medians) - 1
        slowest, dense = max(self.dense_medians), self.result.dense.schedule
        among = max(1, len(self.raw.keys() - {dense}) + len(self.again))
        for model, time, number in self.raw.values():
            time = replace(time, among=1 if model.schedule == dense else among)
            self.known[model.schedule] = self.judged(
                replace(model, latency=time.at_speed_factor(slowest / self.dense_medians[number]))
            )

    def judged(self, candidate: Candidate) -> Candidate:
        """With its verdict and, where asked for, its difference to the dense model."""
        if self.compare is not None and candidate.accuracy is not None:
            candidate = replace(candidate, difference=self.compare(candidate.schedule))
        return replace(candidate, seen=False).judged(self.budget, self.quantile_ratios)

    def settle(self, always: Sequence[Choice], evaluate: Evaluate, compare: Compare, *, held_out: bool = False) -> None:
        """Evaluate ``always`` and the front anew; what that moves onto the front is evaluated too.

        What fails then, as it did not in the precision of the search, is shown no more; of the dense model that raises
        MeasurementError. ``held_out``: by images that had no say in the search.
        """
        settled: set[Choice] = set()
        while waiting := {*always, *(model.schedule for model in self.front())} - settled:
            for schedule in waiting:
                model = self.known[schedule]
                if model.accuracy is not None:
                    answer = evaluate(schedule)
                    if answer.failure is not None and model.origin != "dense":
                        _log.warning(
                            "%s is left out of the result, because in the target's precision it failed: %s", schedule,
                            answer.failure,
                        )  # fmt: skip
                        self.failed.add(schedule)
                        del self.known[schedule]
                        continue
                    if answer.accuracy is None:
                        raise MeasurementError(
                            f"{schedule} cannot be evaluated in the precision of the target: {answer.failure}"
                        )
                    accuracy, others = leading(model.accuracy.metric, (answer.accuracy, *answer.metrics))
                    difference = None if self.compare is None else compare(schedule)
                    model = replace(model, accuracy=accuracy, others=others, difference=difference)
                    self.held_out |= {schedule} if held_out else set()
                self.known[schedule] = replace(model, seen=False).judged(self.budget, self.quantile_ratios)
            settled |= waiting

    def within(self) -> list[Candidate]:
        """What is known and was within the ceilings as searched, which the dense model may not have been."""
        return [model for model in self.known.values() if self.result.dense_fits or model.origin != "dense"]

    def keeps_ceilings(self, candidate: Candidate) -> bool:
        """Whether the ceilings alone are met."""
        facts = candidate.facts(self.quantile_ratios)
        verdict = worst(judge(limit, facts) for limit in self.budget.ceilings)
        return verdict in (Verdict.PASS, Verdict.PREDICTED)

    def front(self) -> list[Candidate]:
        """The measured candidates that none dominates, by the statistic that counts and by the median alike.

        Where the costs are not measured but known, every candidate of the search's front belongs to it.
        """
        if self.kind in ("macs", "predicted"):
            for model in self.result.front:
                if model.schedule not in self.failed:
                    self.known.setdefault(model.schedule, self.judged(model))
            return list(ParetoFront(self.kind, self.within()))
        return list(ParetoFront("p50", ParetoFront(self.kind, self.within())))

    def ranked(self) -> list[Candidate]:
        """The best verdict first, then the search's own preference; none that fails."""
        preferred = by_preference(ParetoFront(self.kind, self.front()), self.budget, self.result.dense)
        return [model for verdict in _ORDER for model in preferred if model.verdict is verdict]

    def pick(self) -> Candidate | None:
        """The first of those ranked."""
        return next(iter(self.ranked()), None)

    def undecided(self) -> list[Candidate]:
        """Those whose measured time lies about the limit, unless the pick is better; each is measured once more."""
        limits = self.budget.of("latency", "throughput")
        pick = self.pick() if limits and self.raw else None
        return [
            model
            for model in self.known.values()
            if limits and model.latency is not None and model.origin != "dense" and model.schedule not in self.again
            if pick is None or model is pick or self._value(model) > self._value(pick)
            if worst(judge(limit, model.facts()) for limit in limits) is Verdict.INCONCLUSIVE
        ]

    def next_best(self, number: int) -> list[Candidate]:
        """Those to measure next: better than the pick, and within the ceilings once predictions are corrected."""
        pick = self.pick()
        if pick is not None and not self.keeps_ceilings(pick):
            pick = None
        times = self.budget.of("latency", "throughput")
        per_second = self.result.dense.images_per_second
        allowed = (per_second(limit.value) if limit.quantity == "throughput" else limit.value for limit in times)
        longest = min(allowed, default=math.inf)
        slower: dict[str | None, list[float]] = {}
        for model in self.known.values():
            if model.latency is not None and times:
                error = model.cost(self.statistic) / model.cost("predicted")
                slower.setdefault(Configuration.of(model.schedule).precision, []).append(error)
        every = [error for errors in slower.values() for error in errors]

        def likely(model: Candidate) -> bool:
            """Whether it should be within the ceilings on what is measured."""
            alike = slower.get(Configuration.of(model.schedule).precision, every)
            return not times or model.cost("predicted") * median(alike) <= longest

        pool = [
            model
            for model in self.result.whole
            if model.schedule not in self.known and model.schedule not in self.waiting and likely(model)
            if pick is None or self._value(model) > self._value(pick)
        ]
        return by_preference(ParetoFront(self.guessed, pool), self.budget, self.result.dense)[:number]

    def _value(self, candidate: Candidate) -> tuple[float, float]:
        """The order of ``by_preference`` as a number, for candidates that are not on one front."""
        floors = self.budget.floors
        worth = -shortfall(candidate, self.budget, self.result.dense) if floors else candidate.metric
        return worth, -candidate.cost(self.guessed)


@dataclass(frozen=True, slots=True)
class Final:
    """A search's result after measurement.

    Args:
        candidates: Those that none dominates, by rising cost, each judged.
        chosen: Index of the one to take; ``None`` where none keeps to the budget.
        baselines: The dense model, the best uniform taper and stage schedule within the ceilings, the dense model in
            other precisions, and the best smaller images and fewer layers within the ceilings; judged.
        over: Number of schedules that were predicted within the ceilings, but measured above them.
        measured: Everything that was measured, the dense model first; for ``not_measured`` no time was left.
        searched: Whether anything but the dense model was evaluated.
        among: Number of models that were evaluated to choose by.
        held_out: Images that had no say in the search and judge its floors; 0 where all had.
    """

    candidates: tuple[Candidate, ...]
    chosen: int | None
    baselines: tuple[Candidate, ...]
    cost: CostKind
    over: int
    measured: tuple[Candidate, ...]
    not_measured: tuple[Candidate, ...] = ()
    searched: bool = True
    among: int = 1
    held_out: int = 0

    @property
    def quantile_ratios(self) -> dict[str, float]:
        """Quantiles of the measured latencies as multiples of the predicted medians; empty where none is known."""
        known = [model for model in self.measured if model.latency is not None and model.latency_predicted_ms]
        kinds: tuple[CostKind, ...] = ("p50", "p90", "p99")
        return {kind: median(model.cost(kind) / model.cost("predicted") for model in known) for kind in kinds if known}

    @property
    def pick(self) -> Candidate | None:
        """The one to take."""
        return None if self.chosen is None else self.candidates[self.chosen]

    @property
    def verdict(self) -> Verdict:
        """Of the chosen one; FAIL where there is none, INCONCLUSIVE where what was not measured might have been one."""
        pick = self.pick
        if pick is None and (not self.searched or any(model.verdict in _ORDER for model in self.not_measured)):
            return Verdict.INCONCLUSIVE
        return Verdict.FAIL if pick is None or pick.verdict is None else pick.verdict


def confirm(
    result: SearchResult,
    budget: Budget,
    *,
    measure: Measure | None,
    compare: Compare | None = None,
    exact: tuple[Evaluate, Compare] | None = None,
    held_out: bool = False,
    number: int = 6,
    rounds: int = 8,
    before: Final | None = None,
    also: Iterable[Candidate] = (),
    quantile_ratios: Mapping[str, float] | None = None,
) -> Final:
    """Measure the best of the front with the dense model and its baselines, then choose the best of all of them.

    Latencies of different groups are put to one speed, the slowest, by the dense model, which is in all of them.
    What should fit, once predictions are corrected by what was measured, and is better than the best that does fit is
    measured too, until nothing is left, but at most ``rounds`` times in all, three at a time. What is better and lies
    about the limit is measured once more before it is left; the new time alone counts.

    Args:
        measure: ``None`` where there is no target: a search on multiply-adds.
        compare: Difference to the dense model; needed for a verdict on ``drop``.
        exact: Evaluation and difference as the result shows them, where the search went by others.
        held_out: Whether ``exact`` is on images that had no say in the search. The choice is then made before they are
            looked at, and they can only refute it.
        number: Candidates measured in the first round, and whatever is in ``also``.
        before: An earlier confirmation of the same search, whose measurements stand.
        quantile_ratios: Ratios of predicted costs, as ``Costs`` has them, for what is judged without a measurement.
    """
    pool = FinalistPool(result, budget, measure, compare, quantile_ratios or {})
    if before is not None and before.measured:
        pool.note([(model, model.latency) for model in before.measured if model.latency is not None])
    # Of each family that was evaluated the best within the ceilings; of other precisions all.
    baselines = [result.dense, *(model for model in result.whole if model.origin in ("int8", "other"))]
    for origin, most in (("taper", 1), ("stages", 1), ("resolution", 2), ("layers", 1)):
        family = [model for model in result.whole if model.origin == origin and pool.keeps_ceilings(model)]
        baselines += by_preference(ParetoFront(result.front.cost, family), budget, result.dense)[:most]
    shortlist = result.ranked(budget)
    if len(shortlist) > number:  # half of the places to the first choices, the others spread over the rest of the front
        first = (number + 1) // 2
        rest, left = shortlist[first:], number - first
        shortlist = [*shortlist[:first], *(rest[(2 * i + 1) * len(rest) // (2 * left)] for i in range(left))]
    pool.take([*baselines, *shortlist, *also])
    decides = pool.kind not in ("macs", "predicted") or budget.of("latency", "throughput")
    for _ in range(rounds - 1 if measure is not None and decides else 0):  # while their costs count, or are limited
        following = [*pool.undecided(), *pool.next_best(3)]
        if not following:
            break
        pool.take([result.dense, *following])
    shown, preferred = [baseline.schedule for baseline in baselines], pool.ranked()
    if exact is not None:
        pool.settle([*shown, *(model.schedule for model in preferred if held_out)], *exact, held_out=held_out)
        preferred = preferred if held_out else pool.ranked()
    for schedule, model in pool.known.items():  # what the search chose by these images; nothing chose the dense model
        if schedule not in pool.held_out and model.origin != "dense":
            pool.known[schedule] = replace(model, seen=True).judged(budget, pool.quantile_ratios)
    judged = (pool.known[model.schedule] for model in preferred if model.schedule in pool.known)
    pick = next((model for model in judged if model.verdict is not Verdict.FAIL), None)
    front = pool.front()
    if pick is not None and pick not in front:  # by the other images alone it would not have been chosen
        front = sorted([*front, pick], key=lambda model: model.cost(pool.kind))
    unseen = (model.accuracy.n for model in pool.known.values() if model.schedule in pool.held_out and model.accuracy)
    return Final(
        candidates=tuple(front),
        chosen=None if pick is None else front.index(pick),
        baselines=tuple(pool.known[schedule] for schedule in shown if schedule in pool.known),
        cost=pool.kind,
        over=sum(not pool.keeps_ceilings(model) for model in pool.within()),
        measured=tuple(pool.known.values()) if measure is not None else (),
        not_measured=tuple(pool.judged(model) for model in pool.waiting.values() if model.schedule not in pool.known),
        searched=result.evaluations > 1,
        among=result.evaluations,
        held_out=max(unseen, default=0),
    )


def better_baseline(final: Final, baselines: Sequence[Baseline], budget: Budget) -> Baseline | None:
    """The user's model that keeps to the budget and answers it better than everything of the search's own.

    Without a floor the more accurate model is better, with one the cheaper one. The baselines are judged already.
    """

    def worth(model: Candidate | Baseline) -> tuple[float, float]:
        accuracy = math.nan if model.accuracy is None else model.accuracy.value
        cost = model.latency.median if model.latency is not None else math.inf if model.macs is None else model.macs
        return (-cost, accuracy) if budget.floors else (accuracy, -cost)

    able = [baseline for baseline in baselines if baseline.verdict is Verdict.PASS and baseline.accuracy is not None]
    best, pick = max(able, key=worth, default=None), final.pick
    if best is None or pick is None or pick.verdict is not Verdict.PASS:
        return best
    return best if worth(best) > worth(pick) else None

"""A search with its confirmation, and further ones half as long where predictions were off."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial

from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.configuration import Choice
from tavt_kit.evaluation.result import EvaluationResult, paired
from tavt_kit.search import Costs, SearchResult, Store
from tavt_kit.search.finalists import Final, confirm
from tavt_kit.search.study import search as search_space
from tavt_kit.workflows.baselines import Baselines
from tavt_kit.workflows.search_context import SearchContext
from tavt_kit.workflows.search_evaluation import Evaluators
from tavt_kit.workflows.search_target import REPORT, TOLERANCE, MeasureWithin

_OFF = 0.1  # relative error of the predictions, as measured, above which the search goes on by corrected ones
_SAME = 0.01  # the same where nothing measured keeps to the budget: smaller errors are the measurement's own
_FIRST = 3  # quarters of the evaluations before finalists are measured for the first time
_MEASURING, _LAST = 0.4, 0.2  # shares of the time that stay for measuring finalists, and after the first time
_CORRECTIONS = 3  # how often at most: a machine whose speed changes all the time is never predicted right


@dataclass(frozen=True)
class LatencyRefinement:
    """One search with its confirmation, and further ones half as long where predictions were off.

    Answers and corrections are in the ``store``, so that a continued search takes the same way.
    """

    context: SearchContext
    store: Store
    evaluators: Evaluators
    costs: Costs
    baselines: Baselines

    def run(self) -> tuple[SearchResult, Final]:
        """The result, and what was measured and chosen; then the baselines are measured too.

        Where times are predicted and measured here, a part of the evaluations and of the time is kept for what the
        measurement corrects; where it corrects nothing, the search goes on as if it had never stopped.
        """
        costs, final, wanted, done = self.costs, None, self.context.config.evaluations, 0
        corrects = self._measure is not None and self.context.config.is_timed
        asked = -(-wanted * _FIRST // 4) if corrects else wanted
        result = self._search(costs, None, 0, asked)
        self.baselines.prepare()
        while corrects and done < _CORRECTIONS:
            quantile_ratios = self.store.get_attr(f"corrected tails {done}")
            if quantile_ratios is None:
                if result.evaluations >= wanted or not self.context.deadline.left(_LAST):
                    break
                final = self._confirm(result, final, rounds=1, last=False)
                quantile_ratios = self._correction(costs, final)
                self.store.set_attr("measured", [str(candidate.schedule) for candidate in final.measured])
                self.store.set_attr(f"corrected tails {done}", quantile_ratios)
            if not quantile_ratios:
                break
            done += 1
            asked = wanted if done == _CORRECTIONS else wanted - (wanted - asked) // 2
            said = "The target takes more or less than was predicted; searching on by what was measured."
            self.context.progress.say(said)
            costs = replace(costs, quantile_ratios=quantile_ratios)
            result = self._search(costs, result, done, asked)
        if result.evaluations < wanted and self.context.deadline.left(_LAST):
            result = self._search(costs, result if done else None, done + 1, wanted)
        final = self._confirm(result, final)
        if self._measure is not None and self.baselines.waiting:  # all finalists were measured by an earlier round
            self._measure([result.dense.schedule])
        if done:
            times = "once" if done == 1 else f"{done} times"
            why = ", the most there are" if done == _CORRECTIONS else ", then held against it again"
            because = f"{result.stopped_because}, the predictions corrected {times} by what was measured{why}"
            result = replace(result, stopped_because=because)
        return result, final

    def _search(self, costs: Costs, after: SearchResult | None, number: int, evaluations: int) -> SearchResult:
        """One search; where the clock ends it, that moment is kept, so that a continued search takes the same way."""
        context, config, deadline = self.context, self.context.config, self.context.deadline
        keep = REPORT if not config.is_here else _LAST if number else _MEASURING
        key = f"seconds of evaluations within {config.max_seconds} s, {number}"
        known = self.store.get_attr(key)
        result = search_space(
            context.space, self.evaluators.evaluate, costs=costs, budget=config.bounds, evaluations=evaluations,
            max_seconds=known, time_left=lambda: deadline.left(keep) if known is None else math.inf,
            population=config.population, seed=config.seed, algorithm=config.algorithm,
            objectives=replace(config.weighed, metric=config.metrics[0]), seeds=context.seeds(),
            baselines=context.joint.baselines if context.joint is not None and config.baselines else {},
            tolerance=TOLERANCE if config.is_here else 0.0, store=self.store, after=after,
            on_progress=context.progress.show, learn=self.evaluators.learn,
        )  # fmt: skip
        if known is None and not deadline.left(keep):
            self.store.set_attr(key, result.seconds)
        return result

    def _confirm(self, result: SearchResult, before: Final | None, rounds: int = 8, last: bool = True) -> Final:
        config, exact = self.context.config, self.evaluators.exact
        if config.is_here:
            said = f"Measuring the best of {result.evaluations} schedules end to end on {config.device}."
            self.context.progress.say(said)
        dense, known = result.dense.schedule, self.store.get_attr("measured") or ()
        settled = last and exact is not self.evaluators.fast
        return confirm(
            result, config.bounds,
            measure=self._measure if last or self._measure is None else partial(self._measure, keep=_LAST),
            compare=partial(self._difference, dense, exact=False),
            exact=(self._exact, partial(self._difference, dense, exact=True)) if settled else None,
            held_out=exact.context.judges, number=config.final, rounds=rounds, before=before,
            also=[candidate for candidate in result.whole if str(candidate.schedule) in known] if last else (),
            quantile_ratios=self.costs.quantile_ratios,
        )  # fmt: skip

    def _exact(self, schedule: Choice) -> EvaluationResult:
        """What the result shows, evaluated once, whichever run of this search did it."""
        exact = self.evaluators.exact
        known = self.store.get(schedule, final=True)
        if known is None and exact is self.evaluators.fast:
            known = self.store.get(schedule)
            if known is not None and known.accuracy is not None and known.accuracy.n < len(exact.own.labels):
                known = None  # stopped early
        if known is None:
            ((_, known),) = exact.look([schedule], 0, len(exact.own.labels))
            self.store.add(schedule, known, final=True)
        return known

    def _difference(self, before: Choice, after: Choice, *, exact: bool) -> PairedDifference:
        """The second minus the first, by the bits that were stored as far as they are known, so on all images."""
        answers = [self._exact(choice) if exact else self.store.get(choice) for choice in (before, after)]
        bits = [answer.correct for answer in answers if answer is not None and answer.correct is not None]
        if len(bits) == 2 and bits[0].shape == bits[1].shape:
            return paired(*bits)
        return (self.evaluators.exact if exact else self.evaluators.fast).against(before, after)

    @cached_property
    def _measure(self) -> MeasureWithin | None:
        """One for all confirmations, so that the dense model is converted once."""
        if not self.context.config.is_here:
            return None
        return MeasureWithin(self.context, self.costs.predicted(self.context.space.dense), self.baselines)

    def _correction(self, costs: Costs, final: Final) -> dict[str, float]:
        """The quantile ratios to go on with; empty where predictions were right, or no schedule would fit any more.

        Where nothing that was measured keeps to the budget, what was measured counts however near it was.
        """
        bounds = self.context.config.bounds
        limits = bounds.of("latency", "throughput")
        names = {"p50" if limit.quantity == "throughput" else limit.statistic for limit in limits}
        measured = {name: ratio for name, ratio in final.quantile_ratios.items() if name in names}
        allowed = _SAME if final.pick is None and final.over > 0 else _OFF
        if not any(abs(ratio / costs.quantile_ratios.get(name, 1.0) - 1) > allowed for name, ratio in measured.items()):
            return {}
        ratios = {**costs.quantile_ratios, **measured}
        fits = replace(costs, quantile_ratios=ratios).fits(bounds, TOLERANCE)
        return ratios if any(map(fits, self.context.space.ends)) else {}

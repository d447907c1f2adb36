"""Searching and measuring in turn: where the target proves faster or slower than predicted, the search goes on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from tavt_kit.core.accuracy import PairedDifference
from tavt_kit.core.configuration import Choice
from tavt_kit.evaluation.result import EvaluationResult, paired
from tavt_kit.search import Costs, Objectives, SearchResult, Store, search
from tavt_kit.search.finalists import Final, confirm
from tavt_kit.search.joint_space import GENES
from tavt_kit.workflows.baselines import Baselines
from tavt_kit.workflows.search_config import SearchConfig
from tavt_kit.workflows.search_context import SearchContext
from tavt_kit.workflows.search_evaluation import Evaluators
from tavt_kit.workflows.search_memory import SearchMemory
from tavt_kit.workflows.search_target import REPORT, TOLERANCE, MeasureWithin, measured_on

_OFF = 0.1
"""Relative error of the predictions, as measured in the end, above which the search goes on by corrected ones."""

_SAME = 0.01
"""The same where nothing measured keeps to the budget: smaller errors are the measurement's own."""

_FIRST = 3
"""Quarters of the evaluations before finalists are measured for the first time."""

_MEASURING, _LAST = 0.4, 0.2
"""Shares of the allowed time that the search keeps for measuring finalists, and their first measuring for the last."""

_ABLATION = 0.2
"""Share of the allowed time that must be left to ask what each gene is worth."""

_CORRECTIONS = 3
"""How often at most: a machine whose speed changes all the time is never predicted right."""


@dataclass(frozen=True)
class LatencyRefinement:
    """One search with its confirmation, and further ones half as long where predictions were off.

    Args:
        context: Model and images.
        config: What is asked.
        store: Keeps answers, and the correction, so that a continued search takes the same way.
        evaluators: Who answers on val; finalists are evaluated once more where the quick way is not the exact one.
        costs: Of schedules, as predicted.
        baselines: What the front is held against.
        memory: Peaks of the finalists, where memory is limited.
    """

    context: SearchContext
    config: SearchConfig
    store: Store
    evaluators: Evaluators
    costs: Costs
    baselines: Baselines
    memory: SearchMemory

    def run(self) -> tuple[SearchResult, Final]:
        """The result, and what was measured and chosen; then the baselines are measured too.

        Where times are predicted and measured here, a part of the evaluations and of the time is kept for what the
        measurement corrects; where it corrects nothing, the search goes on as if it had never stopped.
        """
        costs, final, wanted = self.costs, None, self.config.evaluations
        corrects = self._measure is not None and self.config.is_timed
        asked = -(-wanted * _FIRST // 4) if corrects else wanted
        result = self._search(costs, None, 0, asked)
        self.baselines.prepare()
        done = 0
        while corrects and done < _CORRECTIONS:
            tails = self.store.get_attr(f"corrected tails {done}")
            if tails is None:
                if result.evaluations >= wanted or not self.context.deadline.left(_LAST):
                    break
                final = self._confirm(result, final, rounds=1, last=False)
                tails = self._correction(costs, final)
                self.store.set_attr("measured", [str(one.schedule) for one in final.measured])
                self.store.set_attr(f"corrected tails {done}", tails)
            if not tails:
                break
            done += 1
            asked = wanted if done == _CORRECTIONS else wanted - (wanted - asked) // 2
            self._say("The target takes more or less than was predicted; searching on by what was measured.")
            costs = replace(costs, tails=tails)
            result = self._search(costs, result, done, asked)
        if result.evaluations < wanted and self.context.deadline.left(_LAST):
            result = self._search(costs, result if done else None, done + 1, wanted)
        final = self._confirm(result, final)
        if self._measure is not None and self.baselines.waiting:  # all finalists were measured by an earlier round
            self._measure([result.dense.schedule])
        return _said(result, done), final

    def gene_ablation(self, final: Final) -> list[dict[str, Any]]:
        """Of each gene of the choice that is not the model's own, and of dropping: the choice without it, measured too.

        Args:
            final: As ``run`` gave it.
        """
        pick, space = final.pick, self.context.joint
        if pick is None or space is None:
            return []
        if self.context.deadline.left() < _ABLATION * (self.config.max_seconds or 0.0):
            return []
        dense = self.context.space.dense
        without = {gene: space.given(pick.schedule, **{gene: 0}) for gene in GENES}
        without["tokens"] = space.undropped(pick.schedule)
        without = {
            gene: schedule
            for gene, schedule in without.items()
            if schedule != pick.schedule and self._exact(schedule).failure is None
        }
        times: dict[Choice, float] = {}
        if self._measure is not None and without:
            shown = list(dict.fromkeys([dense, pick.schedule, *without.values()]))
            runs = zip(shown, self._measure(shown), strict=True)
            times = {one: run.median for one, run in runs if run is not None}
        return [
            {
                "gene": gene,
                "without": {
                    "text": str(schedule),
                    "macs": self.costs.macs(schedule),
                },
                "difference": self._exactly_against(schedule, pick.schedule).as_record(),
                "macs_ratio": pick.macs / self.costs.macs(schedule),
                "time_ratio": times[pick.schedule] / times[schedule] if schedule in times else None,
            }
            for gene, schedule in without.items()
        ]

    def _search(self, costs: Costs, after: SearchResult | None, number: int, evaluations: int) -> SearchResult:
        """One search; where the clock ends it, that moment is kept, so that a continued search takes the same way."""
        config, deadline = self.config, self.context.deadline
        keep = REPORT if not config.is_here else _LAST if number else _MEASURING
        key = f"seconds of evaluations within {config.max_seconds} s, {number}"
        known = self.store.get_attr(key)
        found = search(
            self.context.space, self.evaluators.evaluate, costs=costs, budget=config.budget, evaluations=evaluations,
            max_seconds=known, time_left=lambda: deadline.left(keep) if known is None else math.inf,
            population=config.population, seed=config.seed, algorithm=config.algorithm, objectives=self._objectives,
            seeds=self.context.seeds(config), baselines=self._baselines, tolerance=TOLERANCE if config.is_here else 0.0,
            store=self.store, after=after, on_progress=self.context.progress.show, learn=self.evaluators.learn,
        )  # fmt: skip
        if known is None and not deadline.left(keep):
            self.store.set_attr(key, found.seconds)
        return found

    @property
    def _baselines(self) -> Mapping[Choice, str]:
        joint = self.context.joint
        return joint.baselines if joint is not None and self.config.baselines else {}

    def _confirm(self, result: SearchResult, before: Final | None, rounds: int = 8, last: bool = True) -> Final:
        if self.config.is_here:
            self._say(f"Measuring the best of {result.evaluations} schedules end to end on {self.config.target}.")
        dense, known = result.dense.schedule, self.store.get_attr("measured") or ()
        settled = last and self.evaluators.exact is not self.evaluators.fast
        return confirm(
            result,
            self.config.budget,
            measure=self._measure if last or self._measure is None else partial(self._measure, keep=_LAST),
            peaks=self.memory.peaks,
            compare=lambda schedule: self._against(dense, schedule),
            exact=(self._exact, lambda schedule: self._exactly_against(dense, schedule)) if settled else None,
            held_out=self.evaluators.held_out,
            number=self.config.final,
            rounds=rounds,
            before=before,
            also=[one for one in result.whole if str(one.schedule) in known] if last else (),
            tails=self.costs.tails,
        )

    def _say(self, sentence: str) -> None:
        self.context.progress.say(sentence)

    def _exact(self, schedule: Choice) -> EvaluationResult:
        """What the result shows, evaluated once, whichever run of this search did it."""
        exact = self.evaluators.exact
        known = self.store.get(schedule, final=True)
        if known is None and exact is self.evaluators.fast:
            known = self.store.get(schedule)
            if known is not None and known.accuracy is not None and known.accuracy.n < len(exact.own.labels):
                known = None  # stopped early
        if known is None:
            known = exact.result(schedule)
            self.store.add(schedule, known, final=True)
        return known

    def _exactly_against(self, before: Choice, after: Choice) -> PairedDifference:
        """The second minus the first, in the precision of the target."""
        answers = self._exact(before), self._exact(after)
        return _paired(answers) or self.evaluators.exact.against(before, after)

    def _against(self, dense: Choice, schedule: Choice) -> PairedDifference:
        """Candidate minus dense, by the bits that were stored; whoever evaluated, nothing is evaluated twice."""
        answers = self.store.get(dense), self.store.get(schedule)
        return _paired(answers) or self.evaluators.fast.against(dense, schedule)

    @cached_property
    def _measure(self) -> MeasureWithin | None:
        """One for all confirmations, so that the dense model is converted once."""
        dense_ms = self.costs.predicted(self.context.space.dense)
        return measured_on(self.context, self.config, dense_ms, self.baselines)

    @cached_property
    def _objectives(self) -> Objectives:
        """As asked, top-1 where no metric is."""
        return replace(self.config.weighed, metric=self.config.metrics[0])

    def _correction(self, costs: Costs, final: Final) -> dict[str, float]:
        """The tails to go on with; empty where predictions were right, or no schedule would fit any more.

        Where nothing that was measured keeps to the budget, what was measured counts however near it was.
        """
        limits = self.config.budget.of("latency", "throughput")
        names = {"p50" if limit.quantity == "throughput" else limit.statistic for limit in limits}
        found = {name: tail for name, tail in final.tails.items() if name in names}
        missed = final.pick is None and final.over > 0
        allowed = _SAME if missed else _OFF
        if not any(abs(tail / costs.tails.get(name, 1.0) - 1) > allowed for name, tail in found.items()):
            return {}
        corrected = replace(costs, tails={**costs.tails, **found})
        fits = corrected.fits(self.config.budget, TOLERANCE)
        return dict(corrected.tails) if any(map(fits, self.context.space.ends)) else {}


def _paired(answers: Iterable[EvaluationResult | None]) -> PairedDifference | None:
    """By the bits of two answers; ``None`` where one of them is unknown, or was stopped early."""
    bits = [answer.correct for answer in answers if answer is not None and answer.correct is not None]
    return paired(*bits) if len(bits) == 2 and bits[0].shape == bits[1].shape else None


def _said(result: SearchResult, corrections: int) -> SearchResult:
    """With how often the predictions were corrected, and why no more."""
    if not corrections:
        return result
    times = "once" if corrections == 1 else f"{corrections} times"
    why = ", the most there are" if corrections == _CORRECTIONS else ", then held against it again"
    told = f"{result.stopped_because}, the predictions corrected {times} by what was measured{why}"
    return replace(result, stopped_because=told)

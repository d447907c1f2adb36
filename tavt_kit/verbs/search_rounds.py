"""Searching and measuring in turn: where the target proves faster or slower than predicted, the search goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from tavt_kit.evaluation import LeanEvaluator
from tavt_kit.search import Costs, SearchResult, Store, search
from tavt_kit.search.final import Final, Measure, confirm
from tavt_kit.verbs.search_live import live, say_stage
from tavt_kit.verbs.search_request import Request
from tavt_kit.verbs.search_subject import Subject
from tavt_kit.verbs.search_target import SLACK, measured_on

__all__ = ["Rounds"]

_NOTE = "corrected tails"
_OFF = 0.1
"""Relative error of the predictions, as measured in the end, above which the search goes on by corrected ones."""


@dataclass(frozen=True)
class Rounds:
    """One search with its confirmation, and a second half as long where predictions were off.

    Args:
        subject: Model and pictures.
        request: What is asked.
        store: Keeps answers, and the correction, so that a continued search takes the same way.
        evaluator: Of schedules on val; finalists are evaluated once more where its precision is not the target's.
        costs: Of schedules, as predicted.
    """

    subject: Subject
    request: Request
    store: Store
    evaluator: LeanEvaluator
    costs: Costs

    def run(self) -> tuple[SearchResult, Final]:
        """The result, and what was measured and chosen."""
        costs = self.costs
        result, first = self._search(costs, None), None
        tails = self.store.note(_NOTE)
        if tails is None:
            first = self._confirm(result, None, rounds=1, last=False)
            tails = self._correction(first)
            self.store.keep(_NOTE, tails)
        if not tails:
            return result, self._confirm(result, first)
        say_stage(
            "The target runs at another speed than when its layers were timed; searching on by what was measured."
        )
        result = self._search(replace(costs, tails=tails), result)
        return result, self._confirm(result, first)

    def _search(self, costs: Costs, after: SearchResult | None) -> SearchResult:
        request, wanted = self.request, self.request.evaluations
        with live() as watch:
            return search(
                self.subject.space, self.evaluator, costs=costs, budget=request.budget,
                evaluations=wanted if after is None else after.evaluations + (wanted + 1) // 2,
                max_seconds=request.max_seconds, population=request.population, seed=request.seed,
                seeds=self.subject.schedules(request.schedules), slack=SLACK if request.is_here else 0.0,
                store=self.store, after=after, on_progress=watch,
            )  # fmt: skip

    def _confirm(self, result: SearchResult, before: Final | None, rounds: int = 3, last: bool = True) -> Final:
        if self.request.is_here:
            say_stage(f"Measuring the best of {result.evaluations} schedules end to end on {self.request.target}.")
        exact, dense = self._exact, result.dense.schedule
        settled = last and exact is not self.evaluator
        return confirm(
            result,
            self.request.budget,
            measure=self._measure,
            compare=lambda schedule: self.evaluator.against(dense, schedule),
            exact=(exact, lambda schedule: exact.against(dense, schedule)) if settled else None,
            number=self.request.final,
            rounds=rounds,
            before=before,
            tails=self.costs.tails,
        )

    @cached_property
    def _measure(self) -> Measure | None:
        """One for all confirmations, so that the dense model is converted once."""
        return measured_on(self.subject, self.request, self.costs.predicted(self.subject.space.dense))

    @cached_property
    def _exact(self) -> LeanEvaluator:
        """Evaluates finalists, in the precision of the target."""
        if self.request.precision == self.evaluator.precision:
            return self.evaluator
        return replace(self.evaluator, precision=self.request.precision)

    def _correction(self, final: Final) -> dict[str, float]:
        """The tails to go on with; empty where predictions were right, or no schedule would fit any more."""
        costs = self.costs
        limits = [limit.statistic or "p90" for limit in self.request.budget.of("latency")]
        found = {name: tail for name, tail in final.tails.items() if name in limits}
        off = [abs(tail / costs.tails.get(name, 1.0) - 1) > _OFF for name, tail in found.items()]
        if not any(off):
            return {}
        corrected = replace(costs, tails={**costs.tails, **found})
        fits = corrected.fits(self.request.budget, SLACK)(self.subject.space.least)
        return dict(corrected.tails) if fits else {}

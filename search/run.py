"""The state of one search: what was answered, the front of it, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.configuration import Choice
from tavt_kit.core.front import ParetoFront
from tavt_kit.evaluation.answer import Answer
from tavt_kit.search.evaluate import Answered, Evaluate, in_order
from tavt_kit.search.feasibility import Costs
from tavt_kit.search.objectives import Objectives, leading
from tavt_kit.search.racing import ESTIMATE
from tavt_kit.search.result import Progress, SearchResult, by_preference, is_whole, shortfall
from tavt_kit.search.store import Store

__all__ = ["Learn", "Run"]

Learn = Callable[[Sequence[tuple[Choice, Answer]]], None]
"""Told the answers of a generation when all have come."""


@dataclass(slots=True)
class Run:
    """The state of one search: answers, front, and when to stop."""

    evaluate: Evaluate
    costs: Costs
    budget: Budget
    objectives: Objectives
    store: Store
    fits: Callable[[Any], bool]
    front: ParetoFront
    limit: int | None
    max_seconds: float | None
    on_progress: Callable[[Progress], None] | None
    learn: Learn | None
    candidates: list[Candidate] = field(default_factory=list)
    known: dict[Choice, Candidate] = field(default_factory=dict)
    history: list[float] = field(default_factory=list)
    estimates: dict[Choice, float] = field(default_factory=dict)
    clock: list[float] = field(default_factory=list)
    seconds: float = 0.0
    fresh: list[float] = field(default_factory=list)

    def why_stop(self) -> str:
        """Why the search ends here, or nothing."""
        if self.limit is not None and len(self.candidates) >= self.limit:
            return f"{self.limit} evaluations are done"
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            return f"the time is used up ({self.max_seconds:g} s of evaluations)"
        return ""

    def take_over(self, after: SearchResult) -> None:
        """Begin with the answers of an earlier result, on a front within the ceilings of now."""
        self.candidates, self.history, self.seconds = list(after.candidates), list(after.history), after.seconds
        self.estimates = dict(after.estimates)
        self.clock = list(after.clock)
        for candidate in after.candidates:
            self.known[candidate.schedule] = candidate
            self._offer(candidate)

    def answer(self, asked: Sequence[tuple[Choice, str]]) -> list[Candidate]:
        """The candidates of schedules with their origins, in their order; fewer where a bound is reached first."""
        new = list(dict.fromkeys(schedule for schedule, _ in asked if schedule not in self.known))
        if self.limit is not None:
            new = new[: max(0, self.limit - len(self.candidates))]
        found: list[Candidate] = []
        heard: list[tuple[Choice, Answer]] = []
        with closing(self._coming(new)) as coming:
            for schedule, origin in asked:
                if schedule not in self.known:
                    if self.why_stop():
                        break
                    answered = next(coming)
                    self._take(answered, origin)
                    heard.append((schedule, answered.answer))
                found.append(self.known[schedule])
        if self.learn is not None:
            self.learn(heard)
        return found

    def _coming(self, new: Sequence[Choice]) -> Generator[Answered]:
        """The answers in order, of no more at once than there is time for.

        Evaluators answer many together, in one pass: what is asked too much of them is time spent on nothing.
        """
        while new:
            number = len(new)
            if self.max_seconds is not None and self.fresh:
                left = max(0.0, self.max_seconds - self.seconds)
                number = max(1, int(left / max(self._each, 1e-9)))
            with closing(in_order(new[:number], self.evaluate, self.store)) as some:
                yield from some
            new = new[number:]

    @property
    def _each(self) -> float:
        """Seconds of an evaluation, by the last ones."""
        recent = self.fresh[-20:]
        return sum(recent) / len(recent) if recent else self.seconds / len(self.candidates)

    def _take(self, answered: Answered, origin: str) -> None:
        schedule, answer, replayed = answered
        accuracy: Accuracy | None = None
        others: tuple[Accuracy, ...] = ()
        if answer.accuracy is not None:
            accuracy, others = leading(self.objectives.metric, (answer.accuracy, *answer.others))
        candidate = Candidate(
            schedule,
            self.costs.macs(schedule),
            accuracy,
            self.costs.predicted(schedule),
            target=self.costs.target,
            origin=origin,
            others=others,
            memory_predicted=self.costs.predicted_memory(schedule),
        )
        self.seconds += answer.seconds
        if not replayed:
            self.fresh.append(answer.seconds)
        self.candidates.append(candidate)
        self.known[schedule] = candidate
        if ESTIMATE in answer.values:
            self.estimates[schedule] = answer.values[ESTIMATE]
        self._offer(candidate)
        self.history.append(self.front.hypervolume(self.candidates[0]))
        self.clock.append(self.seconds)
        self._report(candidate, replayed=replayed)

    def _offer(self, candidate: Candidate) -> None:
        """To the front, if it fits; what was stopped early is known by a part of the pictures, and never on it."""
        if self.fits(candidate.schedule) and is_whole(candidate, self.candidates[0]):
            self.front.add(candidate)

    def _report(self, candidate: Candidate, *, replayed: bool) -> None:
        if self.on_progress is None:
            return
        ranked = by_preference(self.front, self.budget, self.candidates[0])
        best = ranked[0] if ranked and not shortfall(ranked[0], self.budget, self.candidates[0]) else None
        self.on_progress(
            Progress(
                len(self.candidates), self.limit, len(self.front), self.history[-1], best, self.seconds,
                self._seconds_left(), replayed, candidate,
            )
        )  # fmt: skip

    def _seconds_left(self) -> float | None:
        left = []
        if self.limit is not None:
            left.append(max(0, self.limit - len(self.candidates)) * self._each)
        if self.max_seconds is not None:
            left.append(max(0.0, self.max_seconds - self.seconds))
        return min(left, default=None)

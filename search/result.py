"""What a search tells while it runs and when it ends, and which candidate it would choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tavt_kit.core.budget import Budget, Limit
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.configuration import Choice
from tavt_kit.core.front import ParetoFront
from tavt_kit.errors import DataError


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search is, after each evaluation.

    Args:
        evaluations: Answers so far, those of an earlier run included.
        limit: How many are wanted; ``None`` without a bound.
        front: Candidates on the front.
        hypervolume: Of the front; see ``tavt_kit.core.front``.
        best: The one that would be chosen now, or ``None``.
        seconds: Spent on evaluations, those of an earlier run included.
        seconds_left: Until a bound is reached, as it looks now; ``None`` where that cannot be told.
        replayed: Whether this answer came from the store.
        candidate: What was answered; without an accuracy where the evaluation failed.
    """

    evaluations: int
    limit: int | None
    front: int
    hypervolume: float
    best: Candidate | None
    seconds: float
    seconds_left: float | None
    replayed: bool
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Args:
        front: The non-dominated candidates within the ceilings, by rising cost.
        candidates: All that were evaluated, in order, the dense model first.
        stopped_because: Why it ended, for people.
        history: The hypervolume after each evaluation.
        seconds: Spent on evaluations, those of earlier runs included.
        dense_fits: Whether the dense model itself is within the ceilings, so that it may be on the front.
        estimates: Of candidates that a race stopped early, what their accuracy on all images would be about; their
            own is on those that they were looked at, as its ``n`` says.
        clock: Seconds spent on evaluations until each of them was done.
    """

    front: ParetoFront
    candidates: tuple[Candidate, ...]
    stopped_because: str
    history: tuple[float, ...]
    seconds: float
    dense_fits: bool
    clock: tuple[float, ...] = ()
    estimates: Mapping[Choice, float] = field(default_factory=dict)

    @property
    def whole(self) -> list[Candidate]:
        """The candidates that were looked at on all images."""
        return [one for one in self.candidates if is_whole(one, self.dense)]

    @property
    def dense(self) -> Candidate:
        """The dense model, which every search evaluates first."""
        return self.candidates[0]

    @property
    def evaluations(self) -> int:
        """Number of evaluated schedules."""
        return len(self.candidates)

    @property
    def hypervolume(self) -> float:
        """Of the front; cost relative to dense against the metric, reference (1, 0)."""
        return self.history[-1]

    def ranked(self, budget: Budget) -> list[Candidate]:
        """The front, the one to choose first: see ``by_preference``."""
        return by_preference(self.front, budget, self.dense)


def is_whole(candidate: Candidate, dense: Candidate) -> bool:
    """Whether an accuracy is on as many images as the dense model's."""
    if candidate.accuracy is None or dense.accuracy is None:
        return False
    return candidate.accuracy.n == dense.accuracy.n


def shortfall(candidate: Candidate, budget: Budget, dense: Candidate, metric: float | None = None) -> float:
    """By how much the floors are missed, as a fraction of all images; 0 where all are kept.

    Args:
        candidate: What is judged.
        budget: With floors, or none.
        dense: What a ``drop`` is counted from.
        metric: In place of the candidate's own first metric, where that is on a part of the images.

    Raises:
        DataError: A metric with a floor is not among what was evaluated.
    """
    missed = 0.0
    for limit in budget.floors:
        name = "top1" if limit.quantity == "drop" else limit.name
        floor = _value(dense, name, limit) - limit.value if limit.quantity == "drop" else limit.value
        own = metric is not None and candidate.accuracy is not None and candidate.accuracy.metric == name
        value = metric if own and metric is not None else _value(candidate, name, limit)
        missed = max(missed, floor - value)
    # A fraction of images is exact to far less than this, sums of fractions are not.
    return missed if missed > 1e-9 else 0.0


def _value(candidate: Candidate, name: str, limit: Limit) -> float:
    known = candidate.known(name)
    if known is None:
        answered = ", ".join(one.metric for one in (candidate.accuracy, *candidate.others) if one is not None)
        raise DataError(f"{limit} needs {name}, but the evaluator answers {answered or 'nothing'}")
    return known.value


def by_preference(front: ParetoFront, budget: Budget, dense: Candidate) -> list[Candidate]:
    """A front's candidates, the one to choose first.

    Without a floor that is the most accurate one. With floors it is the cheapest that keeps to them; those
    that miss a floor come last, the nearest first.
    """
    if not budget.floors:
        return sorted(front, key=lambda candidate: (-candidate.metric, front.point(candidate)[0]))
    return sorted(front, key=lambda candidate: (shortfall(candidate, budget, dense), front.point(candidate)[0]))

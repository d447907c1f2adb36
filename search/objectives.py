"""What a search weighs: a metric of the answers against a cost; where it is, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget, Limit
from tavt_kit.core.candidate import Candidate, CostKind
from tavt_kit.core.configuration import Choice
from tavt_kit.core.front import ParetoFront
from tavt_kit.errors import BudgetError, DataError, UnknownName
from tavt_kit.evaluation.metrics import METRICS, metric_named
from tavt_kit.search.feasibility import COSTS, NOT_OF_SCHEDULES, Costs


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search is, after each evaluation.

    Args:
        evaluations: Answers so far, those of an earlier run included, of ``limit``; ``None`` without a bound.
        best: The one that would be chosen now.
        seconds: Spent on evaluations, those of an earlier run included.
        seconds_left: Until a bound is reached, as it looks now; ``None`` where that cannot be told.
        candidate: Without an accuracy where its evaluation failed.
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
        front: The non-dominated candidates within the ceilings.
        candidates: All that were evaluated, in order, the dense model first.
        history: The hypervolume after each evaluation; ``clock`` has the seconds spent until then.
        seconds: Spent on evaluations, those of earlier runs included.
        dense_fits: Whether the dense model itself is within the ceilings, so that it may be on the front.
        estimates: Accuracy on all images, about, of candidates that a race stopped early; their
            own is on those that they were looked at, as its ``n`` says.
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
        return [candidate for candidate in self.candidates if is_whole(candidate, self.dense)]

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

    A ``drop`` is counted from ``dense``. ``metric`` is in place of the candidate's first one, which may be on a part of
    the images. Raises DataError where a metric with a floor is not among what was evaluated.
    """
    missed = 0.0
    for limit in budget.floors:
        name = "top1" if limit.quantity == "drop" else limit.name
        floor = _value(dense, name, limit) - limit.value if limit.quantity == "drop" else limit.value
        own = candidate.accuracy is not None and candidate.accuracy.metric == name
        missed = max(missed, floor - (_value(candidate, name, limit) if metric is None or not own else metric))
    # A fraction of images is exact to far less than this, sums of fractions are not.
    return missed if missed > 1e-9 else 0.0


def _value(candidate: Candidate, name: str, limit: Limit) -> float:
    known = candidate.known(name)
    if known is None:
        answered = ", ".join(accuracy.metric for accuracy in (candidate.accuracy, *candidate.others) if accuracy)
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


@dataclass(frozen=True, slots=True)
class Objectives:
    """The axes of a front.

    Args:
        metric: Metric that is maximised, as an ``Accuracy`` names it; ``None`` for whatever the evaluator answers
            first.
        cost: Cost that is minimised; ``None`` for latency where one is limited or a target alone is given, else
            multiply-adds.
    """

    metric: str | None = None
    cost: CostKind | None = None
    texts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Objectives:
        """Read the texts of all objectives; what is not said is as always.

        Raises:
            BudgetError: A name that is no objective or has no measure, two costs, or two metrics.
        """
        costs: list[CostKind] = []
        metrics: list[str] = []
        for text in texts:
            if text in NOT_OF_SCHEDULES:
                raise BudgetError(f"{text} cannot be an objective, because {NOT_OF_SCHEDULES[text]}")
            if text in COSTS:
                costs.append(COSTS[text].kind)
                continue
            try:
                metrics.append(metric_named(text))
            except UnknownName:
                names = ", ".join((*METRICS, *(name for name in COSTS if name != "flops")))
                raise BudgetError(f"an objective is one of {names}, got {text!r}") from None
        if len(costs) > 1 or len(metrics) > 1:
            raise BudgetError(f"a front weighs one metric against one cost, got {', '.join(texts)}")
        return cls(next(iter(metrics), None), next(iter(costs), None), tuple(texts))

    def settled(self, budget: Budget, costs: Costs) -> Objectives:
        """With the cost that counts; raises BudgetError for a latency without a target."""
        if self.cost == "predicted" and costs.latency_ms is None:
            text = next(text for text in self.texts or ("latency",) if text in COSTS and COSTS[text].is_timed)
            raise BudgetError(f"a latency is of a machine, so the objective {text} needs a target")
        return replace(self, cost=self.kind(budget, timed=costs.latency_ms is not None))

    def kind(self, budget: Budget, *, timed: bool) -> CostKind:
        """The cost: latency where one is limited, or a target alone is given (``timed``); else multiply-adds."""
        if self.cost is not None:
            return self.cost
        return "predicted" if budget.of("latency", "throughput") or (timed and not budget.of("flops")) else "macs"


def leading(metric: str | None, known: Sequence[Accuracy]) -> tuple[Accuracy, tuple[Accuracy, ...]]:
    """The metric of this name (``None``: the first), and the others; raises DataError where it is not there."""
    for accuracy in known:
        if metric in (None, accuracy.metric):
            return accuracy, tuple(other for other in known if other is not accuracy)
    names = ", ".join(accuracy.metric for accuracy in known)
    raise DataError(f"the objective {metric} is not among what the evaluator answers: {names or 'nothing'}")

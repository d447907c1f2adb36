"""What a search weighs against each other: a metric of the answers against costs, two or three of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import CostKind
from tavt_kit.errors import BudgetError, DataError, UnknownName
from tavt_kit.evaluation.metrics import METRICS, metric_named
from tavt_kit.search.feasibility import Costs

COSTS = ("macs", "latency", "throughput")

_MOST = 3


@dataclass(frozen=True, slots=True)
class Objectives:
    """The axes of a front.

    Args:
        metric: What is maximised, as an ``Accuracy`` names it; ``None`` for whatever the evaluator answers first.
        cost: What is minimised first; ``None`` for latency where one is limited or a target alone is given, else
            multiply-adds.
        more: Further axes: ``macs``, or names of metrics.
        texts: As they were asked for.

    Example:
        >>> Objectives.parse(["macro_f1", "macs", "latency"]).more
        ('macs',)
    """

    metric: str | None = None
    cost: CostKind | None = None
    more: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Objectives:
        """Read the texts of all objectives; what is not said is as always.

        Raises:
            BudgetError: A name that is no objective or has no measure, one twice, or more than three.
        """
        costs: list[CostKind] = []
        metrics: list[str] = []
        for text in texts:
            if (cost := _cost(text)) is None:
                metrics.append(_metric(text))
            else:
                costs.append(cost)
        axes = [*costs, *metrics]
        if len(set(axes)) < len(axes):
            raise BudgetError(
                f"each objective is given once, and latency and throughput of one target say the same, got "
                f"{', '.join(texts)}"
            )
        if max(1, len(costs)) + max(1, len(metrics)) > _MOST:
            raise BudgetError(
                f"a front weighs a metric against a cost, and one more at most, got {', '.join(texts)}"
                f"{'' if costs else ' and a cost'}{'' if metrics else ' and a metric'}"
            )
        # What is measured in the end leads; multiply-adds are known anyway.
        costs.sort(key=("predicted", "macs").index)
        first = costs[0] if costs else None
        return cls(metrics[0] if metrics else None, first, (*costs[1:], *metrics[1:]), tuple(texts))

    @property
    def number(self) -> int:
        """How many there are."""
        return 2 + len(self.more)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics among them that were asked for by name."""
        return tuple(axis for axis in (self.metric, *self.more) if axis not in (None, "macs"))

    def settled(self, budget: Budget, costs: Costs) -> Objectives:
        """With the cost that counts.

        Raises:
            BudgetError: A latency or a limit on memory without a target.
        """
        if self.cost == "predicted" and costs.latency_ms is None:
            raise BudgetError(f"a latency is of a machine, so the objective {self._timed} needs a target")
        if costs.target is None and (limits := budget.of("memory")):
            raise BudgetError(f"a peak memory is of a machine, so {limits[0]} needs a target such as openvino:cpu")
        return self if self.cost is not None else replace(self, cost=_usual(budget, costs))

    @property
    def _timed(self) -> str:
        return next(text for text in self.texts or ("latency",) if text in ("latency", "throughput"))


def leading(metric: str | None, known: Sequence[Accuracy]) -> tuple[Accuracy, tuple[Accuracy, ...]]:
    """The metric of this name (``None``: the first), and the others.

    Raises:
        DataError: It is not among them.
    """
    for accuracy in known:
        if metric in (None, accuracy.metric):
            return accuracy, tuple(other for other in known if other is not accuracy)
    raise DataError(f"the objective {metric} is not among what the evaluator answers: {_names(known)}")


def _names(known: Sequence[Accuracy]) -> str:
    return ", ".join(one.metric for one in known) or "nothing"


def _usual(budget: Budget, costs: Costs) -> CostKind:
    """Latency where one is limited, or where a target alone is given; else multiply-adds."""
    if budget.of("latency", "throughput"):
        return "predicted"
    return "predicted" if costs.latency_ms is not None and not budget.of("flops") else "macs"


def _cost(text: str) -> CostKind | None:
    if text == "size":
        raise BudgetError(
            "size cannot be an objective, because dropping tokens leaves every weight, so all schedules have one size; "
            "search by latency or macs, then bench what is exported"
        )
    if text in ("macs", "flops"):
        return "macs"
    if text == "memory":
        raise BudgetError(
            "memory cannot be an objective, because it is measured of the finalists alone; limit it instead, such as "
            "`budget` memory=300MB"
        )
    return "predicted" if text in ("latency", "throughput") else None


def _metric(text: str) -> str:
    try:
        return metric_named(text)
    except UnknownName:
        raise BudgetError(f"an objective is one of {', '.join((*METRICS, *COSTS))}, got {text!r}") from None

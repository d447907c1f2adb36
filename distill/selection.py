"""Which weights of a run are the best, by a metric on ``val``, and when training may stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.errors import MeasurementError, TrainingError, UnknownName
from tavt_kit.evaluation.metrics import METRICS as CATALOGUE
from tavt_kit.evaluation.metrics import Predictions, find_metric

METRICS = tuple(name for name, metric in CATALOGUE.items() if metric.needs != "dense")
"""What weights can be selected by: one model's logits are all there is."""


@dataclass(frozen=True, slots=True)
class SelectionMetric:
    """A metric of the catalogue, of these classes.

    Args:
        name: One of ``METRICS``; ``recall[CLASS]`` with a class. ``loss`` is the mean cross-entropy in nats.
        classes: Names in the order of the logits.

    Raises:
        TrainingError: Another metric, or the recall of a class that is not there.

    Example:
        >>> SelectionMetric("recall[b]", ("a", "b")).of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
        0.5
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            metric, wanted = find_metric(self.name)
        except UnknownName:
            metric, wanted = None, None
        if metric is None or metric.name not in METRICS or self.name == metric.recorded:
            raise TrainingError(f"the metric must be one of {', '.join(METRICS)}, got {self.name!r}")
        if wanted is not None and wanted not in self.classes:
            raise TrainingError(f"{self.name} names no class of the data: {_first(self.classes)}")

    def better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better; of equals neither is."""
        return find_metric(self.name)[0].better(one, other)

    def of(self, logits: Tensor, labels: NDArray[np.int64]) -> float:
        """The value on images.

        Args:
            logits: (n, classes) on the CPU.
            labels: (n,)

        Raises:
            MeasurementError: Logits that are not finite, or a class without images.
        """
        if not bool(torch.isfinite(logits).all()):
            raise MeasurementError(f"the logits are not finite, so there is no {self.name}")
        metric, wanted = find_metric(self.name)
        index = None if wanted is None else self.classes.index(wanted)
        value = metric.of(Predictions(logits.numpy(), labels, index))
        if math.isnan(value):
            raise MeasurementError(f"val has no image of the class that {self.name} names")
        return value


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@dataclass(slots=True)
class Selection:
    """The best evaluation so far, and how many came after it.

    Args:
        patience: Evaluations without a better one that are allowed; ``None`` for any number.
        value: The best one's; ``None`` before the first.
        step: Its update.
        waited: Evaluations since.
    """

    patience: int | None = None
    value: float | None = None
    step: int = 0
    waited: int = 0

    def see(self, metric: SelectionMetric, value: float, step: int) -> bool:
        """Take an evaluation in; whether it is the best so far. Of equals the first stays."""
        if not math.isfinite(value):
            raise MeasurementError(f"the {metric.name} of step {step} is {value}, so nothing can be selected by it")
        if self.value is None or metric.better(value, self.value):
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.patience is not None and self.waited >= self.patience

    def as_state(self) -> dict[str, Any]:
        """For the state of a run."""
        return {key: value for key, value in asdict(self).items() if key != "patience"}

    def restore(self, state: dict[str, Any]) -> None:
        """From ``as_state``."""
        self.value, self.step, self.waited = state["value"], int(state["step"]), int(state["waited"])

"""Which weights of a run are the best, by a metric on ``val``, and when training may stop."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.errors import MeasurementError, TrainingError
from tavt_kit.evaluation.scoring import macro_f1

__all__ = ["METRICS", "Metric", "Selection"]

METRICS = ("top1", "top5", "macro_f1", "recall[CLASS]", "loss")
_RECALL = re.compile(r"recall\[(.+)\]")


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of merit of logits.

    Args:
        name: ``top1`` and ``top5``: share of pictures whose label is among the first 1 or 5. ``macro_f1``: mean over
            classes of 2 TP / (2 TP + FP + FN); a class that neither occurs nor is predicted is left out.
            ``recall[CLASS]``: share of the pictures of a class that are right. ``loss``: mean cross-entropy in nats.
        classes: Names in the order of the logits.

    Raises:
        TrainingError: Another metric, or the recall of a class that is not there.

    Example:
        >>> Metric("recall[b]", ("a", "b")).of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
        0.5
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        found = _RECALL.fullmatch(self.name)
        if found is None and self.name not in METRICS[:3] + METRICS[4:]:
            raise TrainingError(f"the metric must be one of {', '.join(METRICS)}, got {self.name!r}")
        if found is not None and found[1] not in self.classes:
            raise TrainingError(f"{self.name} names no class of the data: {_first(self.classes)}")

    def better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better; of equals neither is."""
        return one < other if self.name == "loss" else one > other

    def of(self, logits: Tensor, labels: NDArray[np.int64]) -> float:
        """The value on pictures.

        Args:
            logits: (n, classes) on the CPU.
            labels: (n,)

        Raises:
            MeasurementError: Logits that are not finite, or a class without pictures.
        """
        if not bool(torch.isfinite(logits).all()):
            raise MeasurementError(f"the logits are not finite, so there is no {self.name}")
        truth = torch.from_numpy(labels)
        if self.name == "loss":
            return float(F.cross_entropy(logits.double(), truth))
        if self.name in ("top1", "top5"):
            first = logits.topk(min(int(self.name[3:]), logits.shape[1]), dim=1).indices
            return float((first == truth[:, None]).any(1).double().mean())
        predicted = logits.argmax(1)
        if self.name == "macro_f1":
            return macro_f1(labels, predicted.numpy(), logits.shape[1])
        mine = truth == self.classes.index(self.name[len("recall[") : -1])
        if not bool(mine.any()):
            raise MeasurementError(f"val has no picture of the class that {self.name} names")
        return float((predicted == truth)[mine].double().mean())


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

    def see(self, metric: Metric, value: float, step: int) -> bool:
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

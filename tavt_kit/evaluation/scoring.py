"""Metrics of answers beside top-1: macro F1, the recall of a class, the loss, and agreement with the dense model.

Each is an ``Accuracy``: a share in [0, 1] with its split, its number of pictures and a 95 % interval. The loss is told
as the ``likelihood``, exp(-mean cross-entropy): the geometric mean of the probabilities that the right classes get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.errors import DataError, UnknownName

__all__ = ["METRICS", "Scoring", "macro_f1", "metric_named"]

METRICS = ("top1", "macro_f1", "recall[CLASS]", "loss", "agreement")

Labels = NDArray[np.int64]

_RESAMPLES = 400
"""Of the bootstrap: the ends of its 95 % interval then vary by less than the interval means."""


def metric_named(name: str) -> str:
    """The name under which a metric is recorded: ``loss`` is told as ``likelihood``, others as they are.

    Raises:
        UnknownName: No such metric.

    Example:
        >>> metric_named("loss"), metric_named("recall[crack]")
        ('likelihood', 'recall[crack]')
    """
    if name in ("loss", "likelihood"):
        return "likelihood"
    if name in ("top1", "macro_f1", "agreement") or (name.startswith("recall[") and name[7:-1] and name[-1] == "]"):
        return name
    raise UnknownName(f"a metric is one of {', '.join(METRICS)}, got {name!r}")


@dataclass(frozen=True, slots=True)
class Scoring:
    """Which metrics are wanted beside top-1, of pictures with these labels.

    Args:
        names: As ``metric_named`` gives them; top-1 among them is left out, because it is always known.
        labels: (n,)
        classes: Their names.
        split: Of the pictures.

    Raises:
        UnknownName: No such metric.
        DataError: A recall of a class that there is not, or that has no picture.

    Example:
        >>> scoring = Scoring(("macro_f1",), np.array([0, 0, 1]), ("a", "b"))
        >>> [str(round(one.value, 3)) for one in scoring.of(np.eye(2)[[0, 1, 1]])]
        ['0.667']
    """

    names: tuple[str, ...]
    labels: Labels
    classes: tuple[str, ...]
    split: str = "val"

    def __post_init__(self) -> None:
        names = (metric_named(name) for name in self.names)
        object.__setattr__(self, "names", tuple(dict.fromkeys(name for name in names if name != "top1")))
        for name in self.names:
            if name.startswith("recall["):
                self._pictures_of(name)

    def of(self, logits: NDArray[np.floating], dense: Callable[[], Labels] | None = None) -> tuple[Accuracy, ...]:
        """The wanted metrics of (n, classes) finite logits.

        Args:
            logits: Of the pictures in the order of the labels.
            dense: The dense model's predictions (n,), asked for where the agreement with it is wanted.
        """
        exact = np.asarray(logits, dtype=np.float64)
        return tuple(self._one(name, exact, exact.argmax(1), dense) for name in self.names)

    def _one(
        self, name: str, logits: NDArray[np.float64], predicted: Labels, dense: Callable[[], Labels] | None
    ) -> Accuracy:
        if name == "macro_f1":
            value, low, high = _f1_with_ends(self.labels, predicted, len(self.classes))
            return Accuracy(name, self.split, value, len(predicted), low, high)
        if name == "likelihood":
            value, low, high = _likelihood(logits, self.labels)
            return Accuracy(name, self.split, value, len(predicted), low, high)
        if name == "agreement":
            if dense is None:
                raise DataError("the agreement with the dense model needs its predictions, but there are none")
            return Accuracy.of_counts(int((predicted == dense()).sum()), len(predicted), split=self.split, metric=name)
        mine = self._pictures_of(name)
        hits = int((predicted == self.labels)[mine].sum())
        return Accuracy.of_counts(hits, int(mine.sum()), split=self.split, metric=name)

    def _pictures_of(self, name: str) -> NDArray[np.bool_]:
        asked = name[len("recall[") : -1]
        if asked not in self.classes:
            raise DataError(f"{name} names none of the classes {_some(self.classes)}")
        mine: NDArray[np.bool_] = self.labels == self.classes.index(asked)
        if not mine.any():
            raise DataError(f"{self.split} has no picture of {asked}, so {name} cannot be known; give more pictures")
        return mine


def macro_f1(truth: Labels, said: Labels, count: int) -> float:
    """Mean over classes of 2 TP / (2 TP + FP + FN); a class that neither occurs nor is said is left out.

    Args:
        truth: (n,)
        said: (n,); -1 is no class.
        count: Classes.
    """
    hits = np.bincount(truth[truth == said], minlength=count)
    both = np.bincount(truth, minlength=count) + np.bincount(said[said >= 0], minlength=count)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def _f1_with_ends(labels: Labels, predicted: Labels, classes: int) -> tuple[float, float, float]:
    """The mean of 2 hits / (pictures + predictions) over the classes that occur, with a bootstrap interval."""
    # Pictures with the same truth and prediction are alike, so whole cells are drawn.
    cells, counts = np.unique(labels * classes + predicted, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=_RESAMPLES)
    truth, found = np.divmod(cells, classes)

    def scores(weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """(draws, cells) -> (draws,)"""
        both = weights @ (np.eye(classes)[truth] + np.eye(classes)[found])
        hits = 2 * (weights * (truth == found)) @ np.eye(classes)[truth]
        with np.errstate(invalid="ignore"):
            each = np.where(both > 0, hits / both, np.nan)
        return np.asarray(np.nanmean(each, axis=1))

    value = float(scores(counts[None, :])[0])
    low, high = np.quantile(scores(draws), (0.025, 0.975))
    return value, min(value, float(low)), max(value, float(high))


def _likelihood(logits: NDArray[np.float64], labels: Labels) -> tuple[float, float, float]:
    """exp(-mean cross-entropy) with the normal interval of that mean."""
    top = logits.max(1)
    losses = top + np.log(np.exp(logits - top[:, None]).sum(1)) - logits[np.arange(len(labels)), labels]
    mean, half = float(losses.mean()), 0.0
    if len(losses) > 1:
        half = 1.96 * float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return math.exp(-mean), math.exp(-(mean + half)), min(1.0, math.exp(-(mean - half)))


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"

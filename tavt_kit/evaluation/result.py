"""EvaluationResult: what the evaluation of one schedule gave, down to which images were right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.errors import MeasurementError


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationResult:
    """What an evaluation gave: an accuracy, or why there is none.

    Args:
        seconds: Its share of the time that passed; over all answers of a search they add up to the time spent.
        correct: (n,) bool, which of the accuracy's n images were right, where the evaluator knows.
        values: Further metrics by name, for example ``loss``.
        metrics: Further metrics of the same images that floors or objectives are about.

    Raises:
        MeasurementError: A value is not finite.
        ValueError: Both an accuracy and a failure, or neither; bits of another number of images.
    """

    accuracy: Accuracy | None
    seconds: float
    failure: str | None = None
    correct: NDArray[np.bool_] | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[Accuracy, ...] = ()

    def __post_init__(self) -> None:
        if (self.accuracy is None) == (self.failure is None):
            raise ValueError("an answer holds either an accuracy or the reason why there is none")
        images = 0 if self.accuracy is None else self.accuracy.n
        if self.correct is not None and self.correct.shape != (images,):
            raise ValueError(f"an accuracy of {images} images cannot have bits of shape {self.correct.shape}")
        for name, value in {"seconds": self.seconds, **self.values, **self.timings}.items():
            if not math.isfinite(value):
                raise MeasurementError(f"the values of an evaluation must be finite, but {name} is {value}")

    def __eq__(self, other: object) -> bool:
        """Whether everything is equal, bit for bit."""
        if not isinstance(other, EvaluationResult):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]


def paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedDifference:
    """How much more accurate ``after`` is, from which of the same images each had right; both (n,).

    Example:
        >>> difference = paired(np.array([True, False, True]), np.array([False, True, True]))
        >>> difference.gained, difference.lost, difference.n
        (1, 1, 3)
    """
    return PairedDifference.of_counts(int((after & ~before).sum()), int((before & ~after).sum()), len(before))

"""Answer: what the evaluation of one schedule gave, down to which pictures were right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.errors import MeasurementError

__all__ = ["Answer", "paired"]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What an evaluation gave: an accuracy, or why there is none.

    Args:
        accuracy: ``None`` where it failed.
        seconds: Its share of the time that passed; over all answers of a search they add up to the time spent.
        failure: Why it failed, in one sentence.
        right: (n,) bool, which of the accuracy's n pictures were right, in the evaluator's order; ``None`` where
            the evaluator does not know.
        values: Further metrics by name, for example ``loss``.
        timings: Seconds of its parts by name, for example ``worker``.
        others: Further metrics of the same pictures that floors or objectives are about.

    Raises:
        MeasurementError: A value is not finite.
        ValueError: Both an accuracy and a failure, or neither; bits of another number of pictures.

    Example:
        >>> right = np.array([True, True, False, True])
        >>> Answer(Accuracy.of_counts(3, 4, split="val"), 0.1, right=right) == Answer(None, 0.1, "no memory")
        False
    """

    accuracy: Accuracy | None
    seconds: float
    failure: str | None = None
    right: NDArray[np.bool_] | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    others: tuple[Accuracy, ...] = ()

    def __post_init__(self) -> None:
        if (self.accuracy is None) == (self.failure is None):
            raise ValueError("an answer holds either an accuracy or the reason why there is none")
        pictures = 0 if self.accuracy is None else self.accuracy.n
        if self.right is not None and self.right.shape != (pictures,):
            raise ValueError(f"an accuracy of {pictures} pictures cannot have bits of shape {self.right.shape}")
        for name, value in {"seconds": self.seconds, **self.values, **self.timings}.items():
            if not math.isfinite(value):
                raise MeasurementError(f"the values of an evaluation must be finite, but {name} is {value}")

    def __eq__(self, other: object) -> bool:
        """Whether everything is equal, bit for bit."""
        if not isinstance(other, Answer):
            return NotImplemented
        return _comparable(self) == _comparable(other)

    __hash__ = None  # type: ignore[assignment]


def _comparable(answer: Answer) -> tuple[object, ...]:
    right = None if answer.right is None else answer.right.tolist()
    named = dict(answer.values), dict(answer.timings)
    return (answer.accuracy, answer.seconds, answer.failure, right, *named, answer.others)


def paired(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> PairedDifference:
    """How much more accurate ``after`` is, from which of the same pictures each had right; both (n,).

    Example:
        >>> difference = paired(np.array([True, False, True]), np.array([False, True, True]))
        >>> difference.gained, difference.lost, difference.n
        (1, 1, 3)
    """
    return PairedDifference.of_counts(int((after & ~before).sum()), int((before & ~after).sum()), len(before))

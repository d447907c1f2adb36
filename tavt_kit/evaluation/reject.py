"""From which probability on a model's answers are accepted, so that those that are have a wished precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.errors import MeasurementError

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least probability of the likeliest class at which an answer is accepted.

    Args:
        wanted: The precision that was wished for, in (0, 1].
        value: The probability, in [0, 1].
        split: It was chosen on.
        accepted: Images of that split at or above it.
        right: How many of these are right.
        n: Images of that split.
    """

    wanted: float
    value: float
    split: str
    accepted: int
    right: int
    n: int

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "wanted": self.wanted,
            "threshold": self.value,
            "chosen_on": {"split": self.split, "n": self.n, "accepted": self.accepted, "right": self.right},
        }


def choose_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], wanted: float, split: str) -> Threshold:
    """The threshold that accepts most images and keeps the precision.

    One mistake is counted more than was made, so that a handful of images proves nothing: a precision of 95 % needs at
    least 19 accepted images without a mistake.

    Args:
        confidence: (n,) the probability of the likeliest class.
        right: (n,) whether that is the label.
        wanted: The precision, in (0, 1].
        split: Of the images; what is reported must be another.

    Raises:
        MeasurementError: No threshold reaches it.

    Example:
        >>> sure = np.linspace(0.5, 1.0, 40)
        >>> choose_threshold(sure, sure > 0.6, 0.9, "val").accepted
        34
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, hits = confidence[order], np.cumsum(right[order])
    accepted = np.arange(1, len(order) + 1)
    # Images of the same confidence are accepted together.
    ends = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    precision = np.where(ends, hits / (accepted + 1), -1.0)
    good = np.flatnonzero(precision >= wanted - _ROUNDING)
    if not len(good):
        best = int(precision.argmax())
        raise MeasurementError(
            f"no threshold on {split} reaches a precision of {100 * wanted:g} %: the most is "
            f"{100 * precision[best]:.1f} %, by accepting {accepted[best]} of {len(order)} images (one mistake more is "
            "counted than was made); wish for less, or give more images"
        )
    last = int(good[-1])
    return Threshold(wanted, float(sorted_confidence[last]), split, int(accepted[last]), int(hits[last]), len(order))


def reached(
    threshold: Threshold, confidence: NDArray[np.float64], right: NDArray[np.bool_], split: str
) -> dict[str, Any]:
    """What the threshold does on other images, JSON-ready: ``coverage``, and ``precision`` (null if none is accepted).

    Args:
        threshold: Chosen on another split.
        confidence: (n,) as in ``choose_threshold``.
        right: (n,) likewise.
        split: Of these images.
    """
    accepted = confidence >= threshold.value
    count = int(accepted.sum())
    coverage = Accuracy.of_counts(count, len(confidence), split=split, metric="coverage").as_record()
    precision = None
    if count:
        precision = Accuracy.of_counts(int(right[accepted].sum()), count, split=split, metric="precision").as_record()
    return {"coverage": coverage, "precision": precision}

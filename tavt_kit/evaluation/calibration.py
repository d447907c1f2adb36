"""Does a model mean its probabilities: confidence against accuracy, in bins. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.evaluation.predictions import probabilities

CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose confidence lies in (low, high].

    Args:
        low: Lower end.
        high: Upper end.
        n: Images.
        right: How many of them are right.
        confidence: Their mean confidence; 0 where there are none.
    """

    low: float
    high: float
    n: int
    right: int
    confidence: float

    @property
    def apart(self) -> float:
        """How far confidence is from accuracy, in images."""
        return abs(self.n * self.confidence - self.right)

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; the accuracy and confidence of an empty bin are null."""
        accuracy, confidence = (self.right / self.n, self.confidence) if self.n else (None, None)
        return {"low": self.low, "high": self.high, "n": self.n, "accuracy": accuracy, "confidence": confidence}


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> tuple[Bin, ...]:
    """The bins of equal width over (0, 1].

    Args:
        confidence: (n,) the probability of the likeliest class.
        right: (n,) whether that was the label.
        bins: How many.

    Example:
        >>> [(one.n, one.right) for one in reliability(np.array([0.4, 0.5, 0.9]), np.array([True, False, True]), 2)]
        [(2, 1), (1, 1)]
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    hits = np.bincount(place, right, minlength=bins)
    sums = np.bincount(place, confidence, minlength=bins)
    return tuple(
        Bin(i / bins, (i + 1) / bins, int(n), int(hits[i]), float(sums[i] / n) if n else 0.0)
        for i, n in enumerate(counts)
    )


def calibration_error(logits: NDArray[Any], labels: NDArray[np.int64], bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: how far confidence (the largest softmax) is from accuracy, weighted by bin.

    Bins of equal width over (0, 1]. NaN where a logit is no number. Source: Guo, Pleiss, Sun and Weinberger, On
    Calibration of Modern Neural Networks, ICML 2017.
    """
    if not np.isfinite(logits).all():
        return float("nan")
    confidence = probabilities(logits).max(axis=1)
    return sum(one.apart for one in reliability(confidence, logits.argmax(axis=1) == labels, bins)) / len(labels)

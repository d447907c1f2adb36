"""Two models' answers to the same images, and how far they are apart. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.errors import DataError

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits of an artifact and of its source, of the same images in the same order.

    Args:
        labels: (n,) the true classes.
        source: (n, classes).
        artifact: (n, classes), its columns in the source's order of classes.
    """

    labels: NDArray[np.int64]
    source: Logits
    artifact: Logits

    @property
    def n(self) -> int:
        """Images."""
        return len(self.labels)

    @property
    def finite(self) -> bool:
        """Whether the artifact gave numbers only."""
        return bool(np.isfinite(self.artifact).all())

    @property
    def scale(self) -> float:
        """The largest logit of the source, by magnitude: what differences are a share of."""
        return max(float(np.abs(self.source).max()), 1e-12)

    def errors(self) -> NDArray[np.float64]:
        """(n,) each image's largest logit difference, as a share of the scale; a NaN counts as infinite."""
        return relative_error(self.artifact, self.source, self.scale)

    @property
    def agreement(self) -> float:
        """Share of the images that both give the same class."""
        return float((classes(self.artifact) == classes(self.source)).mean())

    def top1(self, logits: Logits, split: str) -> Accuracy:
        """Accuracy of ``logits`` (n, classes) on these images."""
        return Accuracy.of_counts(int((classes(logits) == self.labels).sum()), self.n, split=split)

    def against(self, logits: Logits) -> PairedDifference:
        """How much more accurate the artifact is than a model with these ``logits`` (n, classes)."""
        truth, before, after = (x.tolist() for x in (self.labels, classes(logits), classes(self.artifact)))
        return PairedDifference.of_predictions(truth, before, after)


def classes(logits: Logits) -> NDArray[np.int64]:
    """(n, classes) -> (n,) the most likely class; -1, which is no class, where a logit is no number."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def relative_error(left: Logits, right: Logits, scale: float) -> NDArray[np.float64]:
    """(n,) the largest difference in each row, as a share of ``scale``; infinite where a row has a NaN."""
    apart = np.abs(np.nan_to_num(left.astype(np.float64), nan=np.inf) - right)
    return np.asarray(apart.max(axis=1) / scale)


def columns(artifact: Sequence[str], source: Sequence[str], name: str) -> list[int]:
    """Which column of an artifact's logits holds each of the source's classes: compared by name, not by place.

    Raises:
        DataError: They do not name the same classes.
    """
    if set(artifact) != set(source):
        odd = sorted(set(artifact) ^ set(source))
        raise DataError(
            f"{name} and the run it is checked against must have the same classes, but {len(odd)} are in only one of "
            f"them ({', '.join(odd[:4])}{', ...' if len(odd) > 4 else ''}); "
            "check it against the run it was exported from"
        )
    places = {label: place for place, label in enumerate(artifact)}
    return [places[label] for label in source]

"""Figures of merit of two models' answers to the same images, beside top-1: numpy and scipy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tavt_kit.checks.compare import Answers, classes
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.codec import Record
from tavt_kit.evaluation.metrics import CALIBRATION_BINS, METRICS, Predictions, calibration_error
from tavt_kit.evaluation.record import confusion_matrix

_LISTED = 10  # classes and confusions that are named


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class.

    Args:
        name: The class.
        n: Its images.
        source: How many of them the source has right.
        artifact: How many the artifact has right.
    """

    name: str
    n: int
    source: int
    artifact: int

    @property
    def change(self) -> float:
        """Accuracy of the artifact on this class minus the source's."""
        return (self.artifact - self.source) / self.n

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; accuracies as shares."""
        return {"class": self.name, "n": self.n, "source": self.source / self.n, "artifact": self.artifact / self.n}


@dataclass(frozen=True, slots=True)
class Confusion(Record):
    """Images of one class taken for another, counted before and after."""

    truth: str
    said: str
    source: int
    artifact: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a check reports beside top-1; of each pair the source comes first.

    Args:
        top5: Share of the images whose label is among the first five; ``None`` of five classes or fewer, where it is 1.
        macro_f1: See ``macro_f1``.
        calibration_error: See ``calibration_error``.
        mcnemar_p: Of "both are equally often right", two-sided and exact.
        classes: Those with images, in the order of the logits.
        worst_hit: The up to ten classes that lost most, by share of their images, the worst first.
        confusions: The up to ten that grew most, by images.
    """

    top5: tuple[Accuracy, Accuracy] | None
    macro_f1: tuple[float, float]
    calibration_error: tuple[float, float]
    mcnemar_p: float
    classes: tuple[ClassFigures, ...]
    worst_hit: tuple[str, ...]
    confusions: tuple[Confusion, ...]

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; a NaN artifact's calibration error is null."""
        top5 = None if self.top5 is None else _pair([one.as_record() for one in self.top5])
        return {
            "top5": top5,
            "macro_f1": _pair(self.macro_f1),
            "calibration_error": {
                "bins": CALIBRATION_BINS,
                **_pair([one if np.isfinite(one) else None for one in self.calibration_error]),
            },
            "mcnemar_p": self.mcnemar_p,
            "classes": [one.as_record() for one in self.classes],
            "worst_hit": list(self.worst_hit),
            "confusions_grown": [one.as_record() for one in self.confusions],
        }


def figures_of(answers: Answers, names: Sequence[str], split: str) -> Figures:
    """All figures of two models' answers.

    Args:
        answers: Of both.
        names: Of the classes, in the order of the logits.
        split: Of the images.
    """
    difference = answers.against(answers.source)
    both = (answers.source, answers.artifact)
    seen = [Predictions(one, answers.labels) for one in both]
    per_class = _per_class(answers, names)
    return Figures(
        top5=_two(METRICS["top5"].accuracy(one, split) for one in seen) if len(names) > 5 else None,
        macro_f1=_two(METRICS["macro_f1"].of(one) for one in seen),
        calibration_error=_two(calibration_error(one, answers.labels) for one in both),
        mcnemar_p=_mcnemar(difference.gained, difference.lost),
        classes=per_class,
        worst_hit=tuple(one.name for one in sorted(per_class, key=_hit)[:_LISTED] if one.change < 0),
        confusions=_grown(answers, names),
    )


def _per_class(answers: Answers, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    labels, size = answers.labels, len(names)
    images = np.bincount(labels, minlength=size)
    source, artifact = (
        np.bincount(labels[classes(one) == labels], minlength=size) for one in (answers.source, answers.artifact)
    )
    return tuple(
        ClassFigures(name, int(images[i]), int(source[i]), int(artifact[i]))
        for i, name in enumerate(names)
        if images[i]
    )


def _hit(one: ClassFigures) -> tuple[float, int]:
    """Sorts the worst-hit first; of equal shares the one with more images lost."""
    return one.change, one.artifact - one.source


def _grown(answers: Answers, names: Sequence[str]) -> tuple[Confusion, ...]:
    """Off-diagonal entries of the confusion matrix that are larger after than before."""
    size = len(names)
    before, after = (confusion_matrix(answers.labels, classes(one), size) for one in (answers.source, answers.artifact))
    grown = after - before
    np.fill_diagonal(grown, 0)
    places = np.argsort(-grown, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), size) for place in places]
    return tuple(
        Confusion(names[true], names[said], int(before[true, said]), int(after[true, said]))
        for true, said in pairs
        if grown[true, said] > 0
    )


def _mcnemar(gained: int, lost: int) -> float:
    """McNemar's test on the images that exactly one model has right, by the exact binomial; 1 where there is none."""
    if not gained + lost:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(lost, gained + lost, 0.5).pvalue)


def _two(values: Any) -> tuple[Any, Any]:
    first, second = values
    return first, second


def _pair(values: Sequence[Any]) -> dict[str, Any]:
    source, artifact = values
    return {"source": source, "artifact": artifact}

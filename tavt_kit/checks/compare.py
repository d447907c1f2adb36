"""Two models' answers to the same images: how far they are apart, figures beside top-1, and what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.records import make_folder, sha256_text
from tavt_kit.data.images import list_classes
from tavt_kit.data.preprocess import Preprocessing, open_image, resize_crop, save_thumbnail
from tavt_kit.errors import DataError
from tavt_kit.evaluation.metrics import CALIBRATION_BINS, METRICS, Predictions, calibration_error, likeliest
from tavt_kit.evaluation.record import count_confusions
from tavt_kit.evaluation.result import paired

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits (n, classes) of an artifact and of its source, of the same images and classes in the same order."""

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
        return float((likeliest(self.artifact) == likeliest(self.source)).mean())

    def top1(self, logits: Logits, split: str) -> Accuracy:
        """Accuracy of ``logits`` (n, classes) on these images."""
        return Accuracy.of_counts(int((likeliest(logits) == self.labels).sum()), self.n, split=split)

    def against(self, logits: Logits) -> PairedDifference:
        """How much more accurate the artifact is than a model with these ``logits`` (n, classes)."""
        return paired(*(likeliest(each) == self.labels for each in (logits, self.artifact)))


def relative_error(left: Logits, right: Logits, scale: float) -> NDArray[np.float64]:
    """(n,) the largest difference in each row, as a share of ``scale``; infinite where a row has a NaN."""
    apart = np.abs(np.nan_to_num(left.astype(np.float64), nan=np.inf) - right)
    return np.asarray(apart.max(axis=1) / scale)


def columns(artifact: Sequence[str], source: Sequence[str], name: str) -> list[int]:
    """Which column of an artifact's logits holds each of the source's classes; DataError where these are others."""
    if odd := sorted(set(artifact) ^ set(source)):
        raise DataError(
            f"{name} and the run it is checked against must have the same classes, but "
            f"{list_classes(odd, 'are in only one of them')}; check it against the run it was exported from"
        )
    columns_of = {label: index for index, label in enumerate(artifact)}
    return [columns_of[label] for label in source]


_LISTED = 10  # classes and confusions that are named


@dataclass(frozen=True, slots=True)
class ClassFigures(Record):
    """One class of ``n`` images: the shares that the source and the artifact have right."""

    name: str = field(metadata=recorded_as("class"))
    n: int
    source: float
    artifact: float

    @property
    def change(self) -> float:
        """Accuracy of the artifact on this class minus the source's."""
        return self.artifact - self.source


@dataclass(frozen=True, slots=True)
class Confusion(Record):
    """Images of one class taken for another, counted before and after."""

    truth: str
    said: str
    source: int
    artifact: int


@dataclass(frozen=True, slots=True)
class Pair(Record):
    """A figure of the source and of the artifact."""

    source: Any
    artifact: Any


class CalibrationErrors(Pair):
    """``calibration_error`` of both; ``None`` of logits that are no numbers."""

    bins: ClassVar[int] = CALIBRATION_BINS
    VIEWS: ClassVar[tuple[str, ...]] = ("bins",)


@dataclass(frozen=True, slots=True)
class Figures(Record):
    """What a check reports beside top-1; of each pair the source comes first.

    Args:
        top5: Share of the images whose label is among the first five; ``None`` of five classes or fewer, where it is 1.
        mcnemar_p: Probability under "both are equally often right", two-sided and exact.
        worst_hit: The up to ten classes that lost most, by share of their images, the worst first.
    """

    top5: Pair | None
    macro_f1: Pair
    calibration_error: CalibrationErrors
    mcnemar_p: float
    classes: tuple[ClassFigures, ...]
    worst_hit: tuple[str, ...]
    confusions: tuple[Confusion, ...] = field(metadata=recorded_as("confusions_grown"))


def figures_of(answers: Answers, names: Sequence[str], split: str) -> Figures:
    """All figures of two models' answers."""
    labels, difference = answers.labels, answers.against(answers.source)
    both = (answers.source, answers.artifact)
    seen = [Predictions(logits, labels) for logits in both]
    errors = [calibration_error(logits, labels) for logits in both]
    answered = [likeliest(logits) for logits in both]
    right = [np.bincount(labels[said == labels], minlength=len(names)).tolist() for said in answered]
    images = np.bincount(labels, minlength=len(names)).tolist()
    per_class = tuple(
        ClassFigures(name, n, source / n, artifact / n)
        for name, n, source, artifact in zip(names, images, *right, strict=True)
        if n
    )
    # Of equal shares the class with more images lost.
    hit = sorted(per_class, key=lambda each: (round(each.change, 9), each.change * each.n))
    before, after = (
        {(true, said): count for true, said, count in count_confusions(labels, guesses).tolist()}
        for guesses in answered
    )
    grown = {
        pair: more for pair, count in after.items() if pair[0] != pair[1] and (more := count - before.get(pair, 0)) > 0
    }
    mcnemar = 1.0
    if decided := difference.gained + difference.lost:  # the images that exactly one model has right
        from scipy.stats import binomtest

        mcnemar = float(binomtest(difference.lost, decided, 0.5).pvalue)
    return Figures(
        top5=Pair(*(METRICS["top5"].accuracy(model, split) for model in seen)) if len(names) > 5 else None,
        macro_f1=Pair(*(METRICS["macro_f1"].of(model) for model in seen)),
        calibration_error=CalibrationErrors(*(error if np.isfinite(error) else None for error in errors)),
        mcnemar_p=mcnemar,
        classes=per_class,
        worst_hit=tuple(each.name for each in hit[:_LISTED] if each.change < 0),
        confusions=tuple(
            Confusion(names[true], names[said], before.get((true, said), 0), after[true, said])
            for true, said in sorted(grown, key=lambda pair: -grown[pair])[:_LISTED]
        ),
    )


EXAMPLES_FOLDER = "check-examples"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Lost:
    """An image that the dense model has right and the artifact wrong."""

    path: Path
    truth: str
    said: str

    @property
    def thumbnail(self) -> str:
        """Its file below the record's folder; of the same image always the same."""
        return f"{EXAMPLES_FOLDER}/{sha256_text(str(self.path))[:16]}.jpg"

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        file = "/".join(self.path.parts[-2:])
        return {"file": file, "thumbnail": self.thumbnail, "truth": self.truth, "said": self.said}


@dataclass(frozen=True, slots=True)
class Losses:
    """The dense model's figures (as the source's) beside the artifact's, and lost images of many grown confusions."""

    figures: Figures
    examples: tuple[Lost, ...]

    def as_record(self) -> dict[str, Any]:
        """JSON-ready: ``classes``, ``worst_hit``, ``confusions_grown`` as the check has them, with ``dense`` before."""

        def dense(figures: ClassFigures | Confusion) -> dict[str, Any]:
            return {("dense" if name == "source" else name): value for name, value in figures.as_record().items()}

        return {
            "classes": [dense(shares) for shares in self.figures.classes],
            "worst_hit": list(self.figures.worst_hit),
            "confusions_grown": [dense(pair) for pair in self.figures.confusions],
            "examples": [example.as_record() for example in self.examples],
        }


def losses_of(answers: Answers, paths: Sequence[Path], names: Sequence[str], split: str) -> Losses:
    """What was lost."""
    figures = figures_of(answers, names, split)
    before, after = likeliest(answers.source), likeliest(answers.artifact)
    lost = np.flatnonzero((before == answers.labels) & (after != answers.labels) & (after >= 0))
    pairs: dict[tuple[str, str], list[Lost]] = {}
    for index in lost.tolist():
        example = Lost(paths[index], names[answers.labels[index]], names[after[index]])
        pairs.setdefault((example.truth, example.said), []).append(example)
    order = [(grown.truth, grown.said) for grown in figures.confusions]
    queues = [pairs.pop(pair) for pair in order if pair in pairs] + list(pairs.values())
    # One of each confusion in turn, those that grew most first.
    rounds = max(map(len, queues), default=0)
    picked = [queue[turn] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return Losses(figures, tuple(picked[:_SHOWN]))


def save_examples(losses: Losses, preprocessing: Preprocessing, folder: Path) -> None:
    """Write the thumbnails of the lost images below the folder, or raise OutputError; one that is there stays."""
    if not losses.examples:
        return
    make_folder(folder / EXAMPLES_FOLDER)
    for example in losses.examples:
        if not (folder / example.thumbnail).exists():
            save_thumbnail(resize_crop(open_image(example.path), preprocessing), folder / example.thumbnail)

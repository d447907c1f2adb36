"""A model's answers: labels for single images, and the logits of many. Neither torch nor timm is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tavt_kit.data import batches
from tavt_kit.data.images import Sample
from tavt_kit.data.loading import stack_images
from tavt_kit.data.preprocess import Preprocessing, open_image, resize_crop
from tavt_kit.errors import DataError, MeasurementError
from tavt_kit.evaluation.metrics import probabilities

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard


Run: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
"""(B, 3, H, W), or images as a file takes them -> logits (B, classes)."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image: class names with their probabilities (softmax of the logits), the likeliest
    first; or an error that says why there is none."""

    path: str
    ranked: tuple[tuple[str, float], ...]
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The likeliest class, or None."""
        return self.ranked[0][0] if self.ranked else None

    def __str__(self) -> str:
        said = ", ".join(f"{label} {100 * share:.1f} %" for label, share in self.ranked)
        return f"{self.path}: {self.error or said}"

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        ranked = [{"label": label, "probability": round(share, 6)} for label, share in self.ranked]
        return {"image": self.path, "label": self.label, "top": ranked, "error": self.error}


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model that can be asked about images."""

    card: ModelCard
    run: Run

    def files(self, paths: Sequence[Path], top: int = 5, batch: int = 1) -> Iterator[Prediction]:
        """A prediction for each file, in order; a file that cannot be read gives its reason instead.

        Raises:
            DataError: The model has another number of logits than its card has classes.
            MeasurementError: A logit is not finite.
        """
        preprocessing = seen_by(self.run, Preprocessing.from_record(self.card.preprocessing))
        for start in range(0, len(paths), batch):
            part = paths[start : start + batch]
            opened = [_inputs(path, preprocessing) for path in part]
            shares = iter(np.empty((0, 0)))
            if good := [each for each in opened if not isinstance(each, DataError)]:
                logits = run_batch(self.run, stack_images(good, preprocessing))
                require_width(logits, self.card.classes)
                shares = iter(probabilities(logits))
            for path, each in zip(part, opened, strict=True):
                if isinstance(each, DataError):
                    yield Prediction(str(path), (), str(each))
                    continue
                own: NDArray[np.float64] = next(shares)
                best = np.argsort(-own, kind="stable")[:top]  # of equal shares the first class comes first
                yield Prediction(str(path), tuple((self.card.classes[i], float(own[i])) for i in best))


def seen_by(run: object, preprocessing: Preprocessing) -> Preprocessing | None:
    """How images are prepared before a session is given them: not at all, where its file does that itself."""
    return None if getattr(run, "pixels", None) else preprocessing


def _inputs(path: Path, preprocessing: Preprocessing | None) -> NDArray[np.uint8] | DataError:
    """The model's input, not normalised yet, or why there is none."""
    if path.is_dir():
        return DataError(f"{path} is a folder; give the images in it, such as {path}/*.jpg")
    try:
        image = open_image(path)
        return np.asarray(image) if preprocessing is None else resize_crop(image, preprocessing)
    except DataError as error:
        return error


class Answered:
    """What a model made of n images, in the order they were given.

    ``labels`` (n,) are the true classes, ``said`` (n,) the likeliest, of equal logits the first, ``right`` (n,) whether
    the two agree.
    """

    def __init__(self, samples: tuple[Sample, ...], logits: NDArray[np.float32]) -> None:
        self.samples, self.logits = samples, logits
        self.labels = np.array([sample.label for sample in samples], np.int64)
        self.said: NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
        self.right: NDArray[np.bool_] = self.said == self.labels

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(n, classes) the softmax of the logits."""
        return probabilities(self.logits)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(n,) the probability of the likeliest class."""
        return np.asarray(self.shares.max(axis=1))


def answer(
    samples: Sequence[Sample],
    session: Run,
    preprocessing: Preprocessing,
    *,
    batch: int,
    watch: Callable[[NDArray[np.int64]], None] | None = None,
) -> Answered:
    """Run a model over images, of which every one must be readable.

    A file made for one batch size gets batches of that size; ``watch`` is told the labels of each that was run.

    Raises:
        DataError: An image cannot be read.
        MeasurementError: A logit is not finite.
    """
    answers: list[NDArray[np.float32]] = []
    for part in batches(samples, seen_by(session, preprocessing), batch=_fixed_batch(session) or batch):
        answers.append(run_batch(session, part.images))
        if watch is not None:
            watch(part.labels)
    return Answered(tuple(samples), np.concatenate(answers))


def run_batch(session: Run, images: NDArray[Any]) -> NDArray[np.float32]:
    """The logits of a batch; where a batch size is frozen into a file, the last image stands for those missing.

    Raises MeasurementError: a logit is not finite.
    """
    count = len(images)
    if (missing := (_fixed_batch(session) or count) - count) > 0:
        images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    logits = session(images)[:count]
    if not np.isfinite(logits).all():
        raise MeasurementError("the model's logits are not finite; run it in f32")
    return logits


def _fixed_batch(session: Run) -> int | None:
    size: int | None = getattr(session, "input_shape", (None,))[0]
    return size


def require_width(logits: NDArray[np.float32], classes: Sequence[str]) -> None:
    """Raise DataError where a model's card names another number of classes than it has logits (n, classes)."""
    if logits.shape[1] != len(classes):
        raise DataError(
            f"a model has one logit for each class, but this one gives {logits.shape[1]} and names {len(classes)} "
            "classes; export it again"
        )

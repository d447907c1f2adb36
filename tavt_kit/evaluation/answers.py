"""Running a model over images, and its answers: which were read, their labels, and the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tavt_kit.data import batches
from tavt_kit.data.images import Sample
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.predictions import probabilities


@dataclass(frozen=True)
class Answered:
    """What a model made of the images that could be read.

    Args:
        samples: The n that were read, in the order they were given.
        logits: (n, classes), finite.
    """

    samples: tuple[Sample, ...]
    logits: NDArray[np.float32]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) the true classes."""
        return np.array([sample.label for sample in self.samples], np.int64)

    @cached_property
    def said(self) -> NDArray[np.int64]:
        """(n,) the likeliest class; of equal logits the first."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether that is the label."""
        return np.asarray(self.said == self.labels)

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
    session: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    preprocessing: Preprocessing,
    *,
    batch: int,
    allow_unreadable: int = 0,
    watch: Callable[[NDArray[np.int64]], None] | None = None,
) -> Answered:
    """Run a model over images.

    Args:
        samples: Images with their labels.
        session: (B, 3, H, W) -> logits (B, classes). A file made for one batch size gets batches of that size.
        preprocessing: The model's.
        batch: Images at a time.
        allow_unreadable: How many images may be skipped.
        watch: Told the labels of each batch right after it was run.

    Raises:
        DataError: More images than allowed cannot be read, or none can.
        MeasurementError: A logit is not finite.
    """
    fixed = getattr(session, "input_shape", (None,))[0]
    read: list[Sample] = []
    found: list[NDArray[np.float32]] = []
    for part in batches(samples, preprocessing, batch=fixed or batch, allow_unreadable=allow_unreadable):
        logits = session(_filled(part.images, fixed))[: len(part.images)]
        if not np.isfinite(logits).all():
            raise MeasurementError("the model's logits are not finite; evaluate it in f32")
        if watch is not None:
            watch(part.labels)
        read += [samples[index] for index in part.indices]
        found.append(logits)
    return Answered(tuple(read), np.concatenate(found))


def _filled(images: NDArray[np.float32], size: int | None) -> NDArray[np.float32]:
    """The images, the last repeated until there are ``size``."""
    if size is None or len(images) == size:
        return images
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])

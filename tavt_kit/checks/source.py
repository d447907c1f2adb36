"""Source: the model that artifacts are checked against, with the real images it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import Batch, Sample, batches
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.runtimes import open_module

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT

BATCH = 8
"""Images in a batch of the main pass; the last one is mostly smaller, which is a test of its own."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(B, 3, H, W) -> logits (B, classes)."""

Count = Callable[[int], None]
"""Told the number of images after each batch."""


def image_counter(progress: Progress, name: str, total: int) -> Count:
    """A count of the images of all passes of one check, as a share of ``total``.

    Args:
        progress: Told that share.
        name: What is checked.
        total: Images of all passes; what was run before is not run again, so that the share may stay below 1.
    """
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        progress.update(f"checking {name}", min(1.0, done / total))

    return count


@dataclass(slots=True)
class Source:
    """The model that artifacts are checked against, its images, and its answers; each schedule is run once.

    Args:
        adaptive: From ``load_model``: wrapped, with its card.
        samples: The images.
        split: Their split's name.
        allow_unreadable: How many of them may be skipped.
    """

    adaptive: AdaptiveViT
    samples: Sequence[Sample]
    split: str
    allow_unreadable: int = 0
    _logits: dict[TokenSchedule, NDArray[np.float32]] = field(default_factory=dict)
    _labels: NDArray[np.int64] | None = None
    _readable: NDArray[np.int64] | None = None

    @property
    def card(self) -> ModelCard:
        """The model's."""
        return self.adaptive.require_card()

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's own."""
        return Preprocessing.from_record(self.card.preprocessing)

    def logits(self, schedule: TokenSchedule, count: Count | None = None) -> NDArray[np.float32]:
        """(n, classes) under ``schedule``, in torch f32 on the CPU.

        Raises:
            ScheduleError: It does not fit the model.
            DataError: Too many images cannot be read.
        """
        if schedule not in self._logits:
            from tavt_kit.models.wrap import LeanViT

            lean = LeanViT(self.adaptive, schedule).eval()
            session = open_module(lean, TargetDevice("torch", "cpu"), (BATCH, 3, *self.preprocessing.image_size))
            self._logits[schedule], self._labels = self.answers(session, self.preprocessing, count)
        return self._logits[schedule]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) of the images that could be read; known once something was run."""
        assert self._labels is not None
        return self._labels

    @property
    def readable(self) -> NDArray[np.int64]:
        """(n,) places among ``samples`` of the images that can be read."""
        if self._readable is None:
            self._readable = np.concatenate([part.indices for part in self.images(self.preprocessing)])
        return self._readable

    def images(self, preprocessing: Preprocessing, batch: int = BATCH) -> Iterator[Batch]:
        """The images that can be read, in batches."""
        return batches(self.samples, preprocessing, batch=batch, allow_unreadable=self.allow_unreadable)

    def first(self, preprocessing: Preprocessing, count: int) -> NDArray[np.float32]:
        """(at most count, 3, H, W): the first images that can be read."""
        return next(iter(self.images(preprocessing, count))).images

    def at(self, places: Sequence[int], preprocessing: Preprocessing | None = None) -> NDArray[np.float32]:
        """(n, 3, H, W): the images at these places among those that can be read."""
        samples = [self.samples[self.readable[place]] for place in places]
        parts = batches(samples, preprocessing or self.preprocessing, batch=BATCH)
        return np.concatenate([part.images for part in parts])

    def answers(
        self, run: Run, preprocessing: Preprocessing, count: Count | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What ``run`` says of the images (n, classes), and their labels (n,)."""
        logits, labels, places = [], [], []
        for part in self.images(preprocessing):
            logits.append(run(part.images))
            labels.append(part.labels)
            places.append(part.indices)
            if count is not None:
                count(len(part.images))
        self._readable = np.concatenate(places)
        return np.concatenate(logits), np.concatenate(labels)

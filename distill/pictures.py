"""The pictures of a split, read when they are asked for, and the order in which training takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.progress import Progress
from tavt_kit.data import Sample, Unreadable, thin_out
from tavt_kit.data.loading import judge, load_prepared, read_each, skip
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, open_size
from tavt_kit.distill.cache import open_cache
from tavt_kit.distill.preparation import Preparation
from tavt_kit.distill.reading import Reading
from tavt_kit.errors import DataError, TrainingError
from tavt_kit.evaluation.evaluator import Pixels

__all__ = ["HELD_BYTES", "Order", "Pictures", "Undecoded", "read_pictures"]

HELD_BYTES = 256_000_000
"""At most so much of a split is held decoded; a larger one is decoded when it is asked for, or mapped from a cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Undecoded:
    """Pictures that are decoded whenever they are asked for.

    Args:
        samples: The files.
        prepare: What is done to each.
    """

    samples: tuple[Sample, ...]
    prepare: Preparation

    def __getitem__(self, key: int | slice) -> NDArray[np.uint8]:
        """As ``Pixels``; the pictures of a slice are decoded by threads.

        Raises:
            DataError: A picture cannot be read.
        """
        if not isinstance(key, slice):
            return self.prepare(open_image(self.samples[key].path))
        assert self.prepare.fixed_size is not None  # slices are for evaluation, whose pictures have one size
        return load_prepared(self.samples[key], self.prepare, self.prepare.fixed_size).pixels


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A split.

    Args:
        pixels: As evaluation sees them: slices are (n, 3, H, W) bytes.
        labels: (n,) int64.
        names: Of the files, for messages.
        preprocessing: Evaluation's, whose second half ``inputs`` applies.
        skipped: Files that could not be read.
        classes: Of the split's labels.
        reading: How training reads them.
        prepared: What training crops and changes, (3, h, w) bytes at each place; ``None`` is ``pixels``.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: int = 0
    classes: int = 0
    reading: Reading = field(default_factory=Reading)
    prepared: Pixels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bytes (b, 3, H, W) as model inputs."""
        return normalise(pixels, self.preprocessing)


def read_pictures(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    reading: Reading | None = None,
    *,
    limit: int | None = None,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> Pictures:
    """A split, ready to be read: at most 256 MB of it are decoded into memory, more is decoded when it is asked for.

    Where nothing is decoded now, files are only opened, so one that breaks off is found when it is needed; with
    ``allow_unreadable`` each is decoded once to find those that are left out. A cache decodes all of them once.

    Args:
        samples: The split.
        preprocessing: The model's.
        reading: How training reads it, and where pictures are cached; for evaluation the cache alone matters.
        limit: At most so many, spread evenly.
        allow_unreadable: How many may be skipped.
        progress: Watches a cache being filled.

    Raises:
        DataError: Too many cannot be read.
        OutputError: The cache cannot be written.
    """
    reading = reading or Reading()
    chosen = tuple(thin_out(samples, limit))
    evaluation, training = Preparation(preprocessing), Preparation.of(reading, preprocessing)
    prepared, skipped = _store(chosen, training, reading, allow_unreadable, progress)
    left_out = {item.index for item in skipped}
    kept = tuple(sample for index, sample in enumerate(chosen) if index not in left_out)
    return Pictures(
        prepared if training == evaluation else Undecoded(kept, evaluation),
        np.array([sample.label for sample in kept], np.int64),
        tuple(str(sample.path) for sample in kept),
        preprocessing,
        len(skipped),
        1 + max(sample.label for sample in samples),  # every class has a picture in a training split
        reading,
        prepared,
    )


def _store(
    samples: tuple[Sample, ...],
    prepare: Preparation,
    reading: Reading,
    allow_unreadable: int,
    progress: Progress | None,
) -> tuple[Pixels, list[Unreadable]]:
    """The pictures that can be read, and those that cannot."""
    if not samples:
        raise DataError("no picture was given to read; give a split that has some")
    if reading.cache is not None:
        return open_cache(reading.cache, samples, prepare, allow_unreadable=allow_unreadable, progress=progress)
    size = prepare.fixed_size
    if size is not None and 3 * size[0] * size[1] * len(samples) <= HELD_BYTES:
        held, _, skipped = load_prepared(samples, prepare, size, allow_unreadable=allow_unreadable)
        return held, skipped
    skipped = _unreadable(samples, thoroughly=allow_unreadable > 0)
    judge(skipped, len(samples), allow_unreadable)
    left_out = {item.index for item in skipped}
    return Undecoded(tuple(s for i, s in enumerate(samples) if i not in left_out), prepare), skipped


def _unreadable(samples: Sequence[Sample], *, thoroughly: bool) -> list[Unreadable]:
    found = read_each(samples, (lambda path: open_image(path).size) if thoroughly else open_size)
    return [skip(index, samples[index], error) for index, error in enumerate(found) if isinstance(error, DataError)]


class Order:
    """Which pictures each step takes: a new permutation every epoch, its incomplete last batch left out.

    A pure function of seed and step, so a resumed run needs to know nothing but its step.

    Raises:
        TrainingError: Fewer pictures than a batch needs.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if not 1 <= batch <= count:
            raise TrainingError(
                f"a batch takes 1 to {count} pictures, as many as there are for training, got {batch}; change `batch`"
            )
        self.count, self.batch, self.seed = count, batch, seed
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def of(self, step: int) -> NDArray[np.int64]:
        """The places (batch,) of a step, counted from 1."""
        epoch, place = divmod(step - 1, self.count // self.batch)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, 0, epoch]).permutation(self.count)
            self._epoch = epoch
        return self._permutation[place * self.batch : (place + 1) * self.batch]

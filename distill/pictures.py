"""Pictures in memory as bytes, and the order in which training takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tavt_kit.data import Sample, load_bytes, thin_out
from tavt_kit.errors import DataError, TrainingError
from tavt_kit.preprocess import Preprocessing, normalise

__all__ = ["Order", "Pictures", "read_pictures"]

_SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A split, decoded and resized.

    Args:
        pixels: (n, 3, H, W) bytes.
        labels: (n,) int64.
        names: Of the files, for messages.
        preprocessing: That was applied, and whose second half ``inputs`` applies.
        skipped: Files that could not be read.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bytes (b, 3, H, W) as model inputs."""
        return normalise(pixels, self.preprocessing)


def read_pictures(
    samples: Sequence[Sample], preprocessing: Preprocessing, *, limit: int | None = None, allow_unreadable: int = 0
) -> Pictures:
    """Decode a split into memory.

    Args:
        samples: The split.
        preprocessing: The model's.
        limit: At most so many, spread evenly.
        allow_unreadable: How many may be skipped.

    Raises:
        DataError: Too many cannot be read, or they would not fit into half of the free memory.
    """
    chosen = thin_out(samples, limit)
    _check_memory(len(chosen), preprocessing.image_size)
    pixels, labels, skipped = load_bytes(chosen, preprocessing, allow_unreadable=allow_unreadable)
    left_out = {item.index for item in skipped}
    names = tuple(str(sample.path) for index, sample in enumerate(chosen) if index not in left_out)
    return Pictures(pixels, labels, names, preprocessing, len(skipped))


def _check_memory(count: int, image_size: tuple[int, int]) -> None:
    needed = count * 3 * image_size[0] * image_size[1]
    free = _free_memory()
    if free is not None and needed > _SHARE_OF_MEMORY * free:
        raise DataError(
            f"{count} pictures of {image_size[0]}x{image_size[1]} take {needed / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB are free and half of them may be used; give --limit or a smaller --image-size"
        )


def _free_memory() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system says
        return None


class Order:
    """Which pictures each step takes: a new permutation every epoch, its incomplete last batch left out.

    A pure function of seed and step, so a resumed run needs to know nothing but its step.

    Raises:
        TrainingError: Fewer pictures than a batch needs.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if not 1 <= batch <= count:
            raise TrainingError(
                f"a batch takes 1 to {count} pictures, as many as there are for training, got {batch}; change --batch"
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

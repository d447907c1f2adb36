"""Reading images into arrays: decoded by a few threads; those that cannot be read are named and counted."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tavt_kit.data.images import Sample
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.errors import DataError

_Read = TypeVar("_Read")

Prepare = Callable[[Image.Image], NDArray[np.uint8]]
"""A decoded image -> its bytes (3, h, w)."""


class Arrays(NamedTuple):
    """Images (n, 3, H, W), as bytes or normalised, and their labels (n,)."""

    images: NDArray[Any]
    labels: NDArray[np.int64]


def load_arrays(samples: Sequence[Sample], preprocessing: Preprocessing, *, limit: int | None = None) -> Arrays:
    """Read images as model inputs (float32), decoded by as many threads as there are processors, at most 8.

    Args:
        limit: At most so many, spread evenly over ``samples`` (see ``thin_out``).

    Raises:
        DataError: An image cannot be read; of several the first few are named.
    """
    pixels, labels = load_bytes(samples, preprocessing, limit=limit)
    return Arrays(normalise(pixels, preprocessing), labels)


def load_bytes(samples: Sequence[Sample], preprocessing: Preprocessing, *, limit: int | None = None) -> Arrays:
    """As ``load_arrays``, not normalised: uint8, a quarter of the memory."""
    prepare = partial(resize_crop, p=preprocessing)
    return load_prepared(thin_out(samples, limit), prepare, preprocessing.image_size)


def load_prepared(samples: Sequence[Sample], prepare: Prepare, size: tuple[int, int]) -> Arrays:
    """As ``load_bytes`` of all samples, by a preparation that gives images of one ``size``."""
    if not samples:
        raise DataError("no image was given to read; give a split that has some")
    pixels = np.empty((len(samples), 3, *size), np.uint8)
    for index, image in enumerate(read_each(samples, lambda path: prepare(open_image(path)))):
        pixels[index] = image
    return Arrays(pixels, np.array([sample.label for sample in samples], np.int64))


def batches(samples: Sequence[Sample], preprocessing: Preprocessing | None, *, batch: int) -> Iterator[Arrays]:
    """Read images batch by batch, for sets that do not fit the memory; the next batch is decoded ahead.

    With a preprocessing of ``None`` images are (n,) of (h, w, 3) uint8, for a file that prepares them itself.

    Raises:
        DataError: An image cannot be read.
    """
    if batch < 1:
        raise DataError(f"a batch needs at least one image, got {batch}")
    prepare: Prepare = np.asarray if preprocessing is None else partial(resize_crop, p=preprocessing)
    images = read_each(samples, lambda path: prepare(open_image(path)))
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        read = stack_images(list(islice(images, len(part))), preprocessing)
        yield Arrays(read, np.array([sample.label for sample in part], np.int64))


def stack_images(pixels: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing | None) -> NDArray[Any]:
    """What a model is given of images that were resized and cropped, or of such as are in no preprocessing."""
    if preprocessing is not None:
        return normalise(np.stack(pixels), preprocessing)
    images = np.empty(len(pixels), object)
    for index, image in enumerate(pixels):  # at once, NumPy would look into images of one size
        images[index] = image
    return images


def thin_out(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """At most ``limit`` samples, spread evenly; as a split is sorted by class, every class keeps about its share."""
    if limit is None or limit >= len(samples):
        return samples
    if limit < 1:
        raise DataError(f"a limit must allow at least one image, got {limit}")
    # The middle of each of `limit` equal stretches.
    return tuple(samples[(2 * i + 1) * len(samples) // (2 * limit)] for i in range(limit))


def read_each(samples: Sequence[Sample], read: Callable[[Path], _Read]) -> Iterator[_Read]:
    """What ``read``, in a thread, makes of each file, in order; a few are read ahead.

    Raises:
        DataError: Files cannot be read; all of them are counted then, and the first few are named.
    """

    def attempt(sample: Sample) -> _Read | DataError:
        try:
            return read(sample.path)
        except DataError as error:
            return error

    workers = min(8, os.cpu_count() or 1)
    later = iter(samples)
    pool = ThreadPoolExecutor(workers)
    errors: list[DataError] = []
    try:
        waiting = deque(pool.submit(attempt, sample) for sample in islice(later, 16 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(attempt, sample) for sample in islice(later, 1))
            if isinstance(result, DataError):
                errors.append(result)
            elif not errors:
                yield result
    finally:
        pool.shutdown(cancel_futures=True)
    if errors:
        named = "; ".join(str(error) for error in errors[:3]) + f"; and {len(errors) - 3} more" * (len(errors) > 3)
        raise DataError(f"{len(errors)} of {len(samples)} images cannot be read: {named}; repair or remove them")

"""Reading images into arrays: decoded by a few threads, unreadable ones named and counted."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")

Prepare = Callable[[Image.Image], NDArray[np.uint8]]
"""A decoded image -> its bytes (3, h, w)."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that was skipped, and why."""

    index: int
    """Its place among the samples that were to be read (after ``thin_out``)."""
    path: Path
    reason: str


class Arrays(NamedTuple):
    """What ``load_arrays`` gives: images (n, 3, H, W), normalised, labels (n,), and what was skipped."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    skipped: list[Unreadable]


class ByteArrays(NamedTuple):
    """What ``load_bytes`` gives: pixels (n, 3, H, W), of which ``normalise`` makes inputs, labels (n,), the skipped."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    skipped: list[Unreadable]


class Batch(NamedTuple):
    """One step of ``batches``: images (n, 3, H, W), normalised, labels (n,), and places among the samples given (n,).

    Without a preprocessing images are (n,) of (h, w, 3) uint8.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]


def load_arrays(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    allow_unreadable: int = 0,
    limit: int | None = None,
) -> Arrays:
    """Read images as model inputs, decoded by as many threads as there are processors, at most 8.

    Args:
        samples: One split; at least one.
        preprocessing: The model's.
        allow_unreadable: How many images may be skipped; beyond, all is refused. Training leaves it at 0.
        limit: At most so many, spread evenly over ``samples`` (see ``thin_out``).

    Raises:
        DataError: More images than allowed cannot be read (the first few are named), or none can.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp(), "wren.png")
        >>> Image.new("RGB", (32, 24)).save(path)
        >>> images, labels, skipped = load_arrays([Sample(path, 3)], Preprocessing((16, 16)))
        >>> images.shape, labels.tolist(), skipped
        ((1, 3, 16, 16), [3], [])
    """
    pixels, labels, skipped = load_bytes(samples, preprocessing, allow_unreadable=allow_unreadable, limit=limit)
    return Arrays(normalise(pixels, preprocessing), labels, skipped)


def load_bytes(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    allow_unreadable: int = 0,
    limit: int | None = None,
) -> ByteArrays:
    """As ``load_arrays``, not normalised: a quarter of the memory."""
    prepare, size = partial(resize_crop, p=preprocessing), preprocessing.image_size
    return load_prepared(thin_out(samples, limit), prepare, size, allow_unreadable=allow_unreadable)


def load_prepared(
    samples: Sequence[Sample], prepare: Prepare, size: tuple[int, int], *, allow_unreadable: int = 0
) -> ByteArrays:
    """As ``load_bytes`` of all samples, by a preparation that gives images of one ``size``."""
    if not samples:
        raise DataError("no image was given to read; give a split that has some")
    pixels = np.empty((len(samples), 3, *size), np.uint8)
    skipped: list[Unreadable] = []
    good = np.ones(len(samples), bool)
    for index, result in enumerate(read_each(samples, lambda path: prepare(open_image(path)))):
        if isinstance(result, DataError):
            good[index] = False
            skipped.append(skip(index, samples[index], result))
        else:
            pixels[index] = result
    judge(skipped, len(samples), allow_unreadable)
    labels = np.array([sample.label for sample in samples], np.int64)
    if skipped:  # only then: indexing copies
        pixels, labels = pixels[good], labels[good]
    return ByteArrays(pixels, labels, skipped)


def batches(
    samples: Sequence[Sample],
    preprocessing: Preprocessing | None,
    *,
    batch: int,
    allow_unreadable: int = 0,
) -> Iterator[Batch]:
    """Read images batch by batch, for sets that do not fit the memory; the next batch is decoded ahead.

    Unreadable images are left out of their batch (so it is smaller) and logged; the indices tell which came. With a
    preprocessing of ``None`` images are left as they are, for a file that prepares them itself.

    Raises:
        DataError: More images than allowed cannot be read, judged as soon as that is so.
    """
    if batch < 1:
        raise DataError(f"a batch needs at least one image, got {batch}")
    skipped: list[Unreadable] = []
    prepare: Prepare = np.asarray if preprocessing is None else partial(resize_crop, p=preprocessing)
    results = enumerate(read_each(samples, lambda path: prepare(open_image(path))))
    while group := list(islice(results, batch)):
        good: list[tuple[int, NDArray[np.uint8]]] = []
        for index, result in group:
            if isinstance(result, DataError):
                skipped.append(skip(index, samples[index], result))
            else:
                good.append((index, result))
        _refuse_too_many(skipped, len(samples), allow_unreadable)
        if good:
            images = stack_images([result for _, result in good], preprocessing)
            indices = np.array([index for index, _ in good], np.int64)
            labels = np.array([samples[index].label for index, _ in good], np.int64)
            yield Batch(images, labels, indices)
    _report(skipped, len(samples))


def stack_images(pixels: Sequence[NDArray[np.uint8]], preprocessing: Preprocessing | None) -> NDArray[Any]:
    """What a model is given of images that were resized and cropped, or of such as are in no preprocessing."""
    if preprocessing is not None:
        return normalise(np.stack(pixels), preprocessing)
    found = np.empty(len(pixels), object)
    for index, image in enumerate(pixels):  # at once, NumPy would look into images of one size
        found[index] = image
    return found


def thin_out(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """At most ``limit`` samples, spread evenly; as a split is sorted by class, every class keeps about its share."""
    if limit is None or limit >= len(samples):
        return samples
    if limit < 1:
        raise DataError(f"a limit must allow at least one image, got {limit}")
    # The middle of each of `limit` equal stretches.
    return tuple(samples[(2 * i + 1) * len(samples) // (2 * limit)] for i in range(limit))


def read_each(samples: Sequence[Sample], read: Callable[[Path], _Read]) -> Iterator[_Read | DataError]:
    """What ``read``, in a thread, makes of each file, or the DataError it raised, in order; a few are read ahead."""

    def attempt(sample: Sample) -> _Read | DataError:
        try:
            return read(sample.path)
        except DataError as error:
            return error

    workers = min(8, os.cpu_count() or 1)
    later = iter(samples)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(attempt, sample) for sample in islice(later, 16 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(attempt, sample) for sample in islice(later, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def skip(index: int, sample: Sample, error: DataError) -> Unreadable:
    """What is remembered of an image that ``read_each`` could not read."""
    return Unreadable(index, sample.path, str(error).removeprefix(f"cannot read {sample.path}: "))


def judge(skipped: list[Unreadable], total: int, allowed: int) -> None:
    """Log what was skipped; DataError where too many were."""
    _refuse_too_many(skipped, total, allowed)
    _report(skipped, total)


def _refuse_too_many(skipped: list[Unreadable], total: int, allowed: int) -> None:
    if len(skipped) > allowed:
        raise DataError(
            f"{len(skipped)} of {total} images cannot be read and {allowed} may be skipped: "
            f"{_named(skipped)}; repair or remove them; of images that only judge, `allow_unreadable` leaves some out"
        )
    if skipped and len(skipped) == total:
        raise DataError(f"none of the {total} images can be read: {_named(skipped)}; repair them")


def _report(skipped: list[Unreadable], total: int) -> None:
    if skipped:
        _log.warning("%d of %d images skipped: %s", len(skipped), total, _named(skipped))


def _named(skipped: list[Unreadable]) -> str:
    named = ", ".join(f"{item.path} ({item.reason})" for item in skipped[:3])
    return named + (f" and {len(skipped) - 3} more" if len(skipped) > 3 else "")

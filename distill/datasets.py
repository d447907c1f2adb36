"""Batches for training, decoded and changed by other processes while the model computes.

Every draw is a function of the seed, the update and the image, so that a run that was killed and continued, by any
number of decoding processes, sees the same images, bit for bit.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tavt_kit.core.device import available_threads
from tavt_kit.data import Sample, thin_out
from tavt_kit.data.loading import load_prepared, read_each
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, open_size
from tavt_kit.distill.options import DataOptions, OptimizerOptions
from tavt_kit.distill.transforms import Preparation, augment, crop, eraser, photometric, seeded
from tavt_kit.errors import DataError, TrainingError, first_line
from tavt_kit.evaluation.evaluator import Pixels
from tavt_kit.models.timm_import import timm

_PREFETCH = 2
_AUGMENT, _CROP, _PHOTOMETRIC, _ERASE, _MIX = 1, 4, 5, 6, 7
"""Streams of draws; 0 orders the images, 2 and 3 are the loop's."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The images of an update (b, 3, H, W) float32, normalised, and their labels (b,) int64.

    Args:
        soft: (b, C) shares of the classes where images were mixed, else ``None``; labels are not smoothed.
        places: (b,) indices of the images in their split, for messages.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None
    places: NDArray[np.int64]

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU reads by itself; a DataLoader asks for it."""
        soft = None if self.soft is None else self.soft.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), soft=soft)


def stream(
    split: ImageSplit, settings: OptimizerOptions, *, seed: int, first: int, last: int, pinned: bool = False
) -> Generator[Batch]:
    """The batches of the updates ``first`` to ``last``, both included, each decoded a few updates ahead.

    Each decoding process makes whole batches. On Linux the processes are forked: they start in milliseconds, share what
    is in memory, and run nothing but Pillow, numpy and single-threaded torch on the CPU, which is safe after a fork.
    They stop when the generator is closed, and by themselves where this process is killed.

    Updates count from 1. ``pinned`` batches lie in memory that a GPU reads by itself.

    Raises:
        TrainingError: Fewer images than a batch needs, a batch that cannot be mixed, or a decoding process
            that died.
        DataError: An image cannot be read.
    """
    check_pairs(settings.batch, split.reading)
    reader = _Reader(split, Order(len(split), settings.batch, seed), seed)
    numbers = range(first, last + 1)
    workers = workers_of(split, pinned)
    batches = _started(reader, numbers, workers, pinned) if workers else (reader[number] for number in numbers)
    try:
        for number in numbers:
            try:
                batch = next(batches)
            except (RuntimeError, OSError, EOFError) as error:
                if not workers or str(error).startswith("Caught "):  # a bug, not a process that died
                    raise
                named = ", ".join(split.names[index] for index in reader.order.of(number)[:4])
                raise TrainingError(
                    f"a process that decodes images died before update {number} ({named}, ...) was read "
                    f"({first_line(error)}); if memory is short, give fewer `workers`, or 0"
                ) from error
            if isinstance(batch, DataError):
                raise DataError(f"{batch}; repair or remove it: training needs every image of its split")
            yield batch
    finally:
        del batches  # ends the processes; an exception's traceback would keep them


def check_pairs(batch: int, reading: DataOptions) -> None:
    """Raise TrainingError if the images of a batch are to be mixed, but cannot be paired."""
    if reading.mixes and batch % 2:
        raise TrainingError(f"mixup and cutmix pair the images of a batch, so `batch` must be even, got {batch}")


def workers_of(split: ImageSplit, gpu: bool = False) -> int:
    """How many processes decode: as asked, else half of the processors, 1 to 8.

    None where images are held decoded, little is done to them, and the model leaves the processors no time anyway.
    Where a ``gpu`` computes all processors but one, 1 to 16: there it is they that may be too slow.
    """
    reading = split.reading
    if reading.workers is not None:
        return reading.workers
    processors = available_threads()
    if gpu:
        return max(1, min(16, processors - 1))
    if not isinstance(split.prepared, Undecoded) and photometric(reading, split.preprocessing) is None:
        return 0
    return max(1, min(8, processors // 2))


class _Reader(Dataset[Any]):
    """Update -> Batch, or the DataError it met."""

    def __init__(self, split: ImageSplit, order: Order, seed: int) -> None:
        self.split, self.order, self.seed = split, order, seed
        self.reading = split.reading
        self.change = photometric(self.reading, split.preprocessing)
        self.erase = eraser(self.reading)

    def __getitem__(self, number: int) -> Batch | DataError:
        places = self.order.of(number)
        try:
            images = self._images(places, number)
        except DataError as error:
            return error  # torch would wrap it into a traceback
        labels = torch.from_numpy(self.split.labels[places])
        soft = None
        if self.reading.mixes:
            alphas = self.reading.mixup, self.reading.cutmix
            mixup = timm.data.Mixup(*alphas, label_smoothing=0.0, num_classes=self.split.classes)
            with seeded(self.seed, _MIX, number):
                images, soft = mixup(images, labels)
        return Batch(images, labels, soft, places)

    def _images(self, places: NDArray[np.int64], number: int) -> Tensor:
        """(n, 3, H, W) float32"""
        prepared = self.split.pixels if self.split.prepared is None else self.split.prepared
        preprocessing = self.split.preprocessing
        cropped = [
            crop(prepared[int(place)], self.reading, preprocessing, self.seed, _CROP, number, int(place))
            for place in places
        ]
        draws = np.random.default_rng([self.seed, _AUGMENT, number])
        pixels = augment(np.stack(cropped), self.reading.augment, draws)
        if self.change is not None:
            for array, place in zip(pixels, places, strict=True):
                with seeded(self.seed, _PHOTOMETRIC, number, int(place)):
                    changed = self.change(Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))))
                array[:] = np.asarray(changed).transpose(2, 0, 1)
        images = torch.from_numpy(self.split.inputs(pixels))
        if self.erase is not None:
            for image, place in zip(images, places, strict=True):
                with seeded(self.seed, _ERASE, number, int(place)):
                    self.erase(image)
        return images


def _started(reader: _Reader, numbers: range, workers: int, pinned: bool) -> Iterator[Any]:
    """The iterator of a DataLoader, its processes running."""
    # torch would raise the death of a process wherever this one then is; without its handler next() finds it.
    watched = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if watched else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # as many as were asked for
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # see stream
        loader = DataLoader(
            reader,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=_PREFETCH,
            pin_memory=pinned,
            worker_init_fn=_leave_the_group,
            multiprocessing_context="fork" if sys.platform.startswith("linux") else None,  # safe: see ``stream``
            generator=torch.Generator(),  # else it draws from torch's own stream
        )
        batches = iter(loader)
    if watched:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return batches


def _leave_the_group(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM go to the whole group; it is the training process that answers them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


HELD_BYTES = 256_000_000
"""At most so much of a split is held decoded; a larger one is decoded when it is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Undecoded:
    """Images that are decoded, and prepared, whenever they are asked for."""

    samples: tuple[Sample, ...]
    prepare: Preparation

    def __getitem__(self, key: int | slice) -> NDArray[np.uint8]:
        """As ``Pixels``; the images of a slice are decoded by threads."""
        if not isinstance(key, slice):
            return self.prepare(open_image(self.samples[key].path))
        assert self.prepare.fixed_size is not None  # slices are for evaluation, whose images have one size
        return load_prepared(self.samples[key], self.prepare, self.prepare.fixed_size).images


@dataclass(frozen=True, slots=True, eq=False)
class ImageSplit:
    """A split, with labels (n,) int64, and paths of the files, for messages.

    Args:
        pixels: As evaluation sees them: slices are (n, 3, H, W) bytes.
        preprocessing: Evaluation's, whose second half ``inputs`` applies.
        prepared: What training crops and changes, (3, h, w) bytes at each place; ``None`` is ``pixels``.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    classes: int = 0
    reading: DataOptions = field(default_factory=DataOptions)
    prepared: Pixels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bytes (b, 3, H, W) as model inputs."""
        return normalise(pixels, self.preprocessing)


def read_images(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    reading: DataOptions | None = None,
    *,
    limit: int | None = None,
) -> ImageSplit:
    """A split, ready to be read: at most 256 MB of it are decoded into memory, more is decoded when it is asked for.

    Where nothing is decoded now, files are only opened, so one that breaks off is found when it is needed. At most
    ``limit`` are read, spread evenly.

    Raises:
        DataError: An image cannot be read.
    """
    reading = reading or DataOptions()
    chosen = tuple(thin_out(samples, limit))
    if not chosen:
        raise DataError("no image was given to read; give a split that has some")
    evaluation, training = Preparation(preprocessing), Preparation.of(reading, preprocessing)
    size = training.fixed_size
    prepared: Pixels = Undecoded(chosen, training)
    if size is not None and 3 * size[0] * size[1] * len(chosen) <= HELD_BYTES:
        prepared = load_prepared(chosen, training, size).images
    else:
        deque(read_each(chosen, open_size), maxlen=0)
    return ImageSplit(
        prepared if training == evaluation else Undecoded(chosen, evaluation),
        np.array([sample.label for sample in chosen], np.int64),
        tuple(str(sample.path) for sample in chosen),
        preprocessing,
        1 + max(sample.label for sample in samples),  # every class has an image in a training split
        reading,
        prepared,
    )


class Order:
    """Which images each step takes: a new permutation every epoch, its incomplete last batch left out.

    A pure function of seed and step, so a resumed run needs to know nothing but its step.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if not 1 <= batch <= count:
            raise TrainingError(
                f"a batch takes 1 to {count} images, as many as there are for training, got {batch}; change `batch`"
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

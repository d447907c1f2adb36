"""Batches for training, decoded and changed by other processes while the model computes.

Every draw is a function of the seed, the update and the image: which images an update takes, how they are cropped
and changed, which are mixed. So a run that was killed and continued, any number of decoding processes, and any number
of training processes see the same images, bit for bit.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tavt_kit.core.device import available_threads
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import make_folder, read_record, sha256_file, sha256_text, write_record
from tavt_kit.data import Sample, Unreadable, thin_out
from tavt_kit.data.loading import judge, load_prepared, read_each, skip
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, open_size
from tavt_kit.distill.options import DataOptions, OptimizerOptions
from tavt_kit.distill.transforms import Preparation, augment, crop, eraser, photometric, seeded
from tavt_kit.errors import DataError, OutputError, RecordError, TrainingError
from tavt_kit.evaluation.evaluator import Pixels
from tavt_kit.models.timm_import import timm

_PREFETCH = 2
_AUGMENT, _CROP, _PHOTOMETRIC, _ERASE, _MIX = 1, 4, 5, 6, 7
"""Streams of draws; 0 orders the images, 2 and 3 are the loop's."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One process' share of an update: images (b, 3, H, W) float32, normalised, and labels (b,) int64.

    Args:
        soft: (b, C) shares of the classes where images were mixed, else ``None``; labels are not smoothed.
        places: (b,) indices of the images in their split, for messages.
        number: Number of the update, from 1; what changes in the course of a run goes by it.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None
    places: NDArray[np.int64]
    number: int = 1

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU reads by itself; a DataLoader asks for it."""
        soft = None if self.soft is None else self.soft.pin_memory()
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory(), soft=soft)


def stream(
    split: ImageSplit,
    settings: OptimizerOptions,
    *,
    seed: int,
    first: int,
    last: int,
    rank: int = 0,
    world: int = 1,
    pinned: bool = False,
) -> Generator[Batch]:
    """The batches of the updates ``first`` to ``last``, both included, each decoded a few updates ahead.

    Each decoding process makes whole batches, so that nothing but finished ones travels. On Linux the processes are
    forked, not spawned: they start in milliseconds, share what is in memory, and run nothing but Pillow, numpy and
    single-threaded torch on the CPU, which is safe after a fork. They stop when the generator is closed, and by
    themselves where this process is killed. Ctrl-C does not reach them.

    Updates count from 1. Of ``world`` training processes this one, ``rank``, gets the rank-th part of each batch. The
    split's ``reading`` says what is done to the images, every draw goes by the seed. ``pinned`` batches lie in memory
    that a GPU reads by itself.

    Raises:
        TrainingError: Fewer images than a batch needs, a batch that cannot be shared or mixed, or a decoding process
            that died.
        DataError: An image cannot be read.
    """
    check_shares(settings.batch, split.reading, world)
    reader = _Reader(split, Order(len(split), settings.batch, seed), seed, rank, world)
    numbers = range(first, last + 1)
    workers = workers_of(split, world, pinned)
    batches = _started(reader, numbers, workers, pinned) if workers else (reader[number] for number in numbers)
    try:
        for number in numbers:
            try:
                found = next(batches)
            except (RuntimeError, OSError, EOFError) as error:
                if not workers or str(error).startswith("Caught "):  # a bug, not a process that died
                    raise
                reason = (str(error) or type(error).__name__).splitlines()[0]
                named = ", ".join(reader.names(number)[:4])
                raise TrainingError(
                    f"a process that decodes images died before update {number} ({named}, ...) was read "
                    f"({reason}); if memory is short, give fewer `workers`, or 0"
                ) from error
            if isinstance(found, DataError):
                raise DataError(f"{found}; repair or remove it: training needs every image of its split")
            yield found
    finally:
        del batches  # ends the processes; an exception's traceback would keep them


def check_shares(batch: int, reading: DataOptions, world: int = 1) -> None:
    """Raise TrainingError if a batch cannot be shared by ``world`` processes, or its images not be paired."""
    if batch % world:
        raise TrainingError(f"{world} processes share a batch equally, so `batch` must be a multiple, got {batch}")
    if reading.mixes and batch % 2:
        raise TrainingError(f"mixup and cutmix pair the images of a batch, so `batch` must be even, got {batch}")


def workers_of(split: ImageSplit, world: int = 1, gpu: bool = False) -> int:
    """How many processes decode: as asked, else half of this process' share of the processors, 1 to 8.

    None where images are held decoded, little is done to them, and the model leaves the processors no time anyway.
    Where a ``gpu`` computes all processors of the share but one, 1 to 16: there it is they that may be too slow.
    """
    reading = split.reading
    if reading.workers is not None:
        return reading.workers
    share = available_threads() // world
    if gpu:
        return max(1, min(16, share - 1))
    if not isinstance(split.prepared, Undecoded) and photometric(reading, split.preprocessing) is None:
        return 0
    return max(1, min(8, share // 2))


class _Reader(Dataset[Any]):
    """Update -> Batch, or the DataError it met."""

    def __init__(self, split: ImageSplit, order: Order, seed: int, rank: int, world: int) -> None:
        self.split, self.order, self.seed = split, order, seed
        self.reading = split.reading
        self.change = photometric(self.reading, split.preprocessing)
        self.erase = eraser(self.reading)
        size = order.batch // world
        self.share = np.arange(rank * size, (rank + 1) * size)
        # Of those that are mixed into this share only the changed images are needed, in the order that timm pairs.
        pairs = order.batch - 1 - self.share[::-1]
        self.spots = np.concatenate([self.share, pairs]) if self.reading.mixes and world > 1 else self.share

    def names(self, number: int) -> Sequence[str]:
        """Of the images of an update."""
        return [self.split.names[place] for place in self.order.of(number)[self.share]]

    def __getitem__(self, number: int) -> Batch | DataError:
        places = self.order.of(number)[self.spots]
        try:
            images = self._images(places, number)
        except DataError as error:
            return error  # torch would wrap it into a traceback
        labels = torch.from_numpy(self.split.labels[places])
        own = len(self.share)
        soft = None
        if self.reading.mixes:
            alphas = self.reading.mixup, self.reading.cutmix
            mixup = timm.data.Mixup(*alphas, label_smoothing=0.0, num_classes=self.split.classes)
            with seeded(self.seed, _MIX, number):
                images, soft = mixup(images, labels)
            if len(places) > own:  # a slice alone would travel with all of its storage
                images, labels, soft = images[:own].clone(), labels[:own].clone(), soft[:own].clone()
        return Batch(images, labels, soft, places[:own], number)

    def _images(self, places: NDArray[np.int64], number: int) -> Tensor:
        """(n, 3, H, W) float32"""
        prepared = self.split.pixels if self.split.prepared is None else self.split.prepared
        preprocessing = self.split.preprocessing
        cropped = [
            crop(prepared[int(place)], self.reading, preprocessing, self.seed, _CROP, number, int(place))
            for place in places
        ]
        draws = np.random.default_rng([self.seed, _AUGMENT, number])
        pixels = augment(np.stack(cropped), self.reading.augment, draws, of=self.order.batch, places=self.spots)
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
"""At most so much of a split is held decoded; a larger one is decoded when it is asked for, or mapped from a cache."""


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
        return load_prepared(self.samples[key], self.prepare, self.prepare.fixed_size).pixels


@dataclass(frozen=True, slots=True, eq=False)
class ImageSplit:
    """A split, with labels (n,) int64, paths of the files, for messages, and how many files could not be read.

    Args:
        pixels: As evaluation sees them: slices are (n, 3, H, W) bytes.
        preprocessing: Evaluation's, whose second half ``inputs`` applies.
        reading: How training reads them.
        prepared: What training crops and changes, (3, h, w) bytes at each place; ``None`` is ``pixels``.
    """

    pixels: Pixels
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: int = 0
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
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> ImageSplit:
    """A split, ready to be read: at most 256 MB of it are decoded into memory, more is decoded when it is asked for.

    Where nothing is decoded now, files are only opened, so one that breaks off is found when it is needed; with
    ``allow_unreadable`` each is decoded once to find those that are left out. A cache decodes all of them once.

    At most ``limit`` are read, spread evenly. For evaluation of ``reading`` the cache alone matters.

    Raises:
        DataError: More than ``allow_unreadable`` cannot be read.
        OutputError: The cache cannot be written.
    """
    reading = reading or DataOptions()
    chosen = tuple(thin_out(samples, limit))
    if not chosen:
        raise DataError("no image was given to read; give a split that has some")
    evaluation, training = Preparation(preprocessing), Preparation.of(reading, preprocessing)
    size = training.fixed_size
    prepared: Pixels | None = None
    if reading.cache is not None:
        prepared, skipped = open_cache(reading.cache, chosen, training, allow_unreadable, progress)
    elif size is not None and 3 * size[0] * size[1] * len(chosen) <= HELD_BYTES:
        prepared, _, skipped = load_prepared(chosen, training, size, allow_unreadable=allow_unreadable)
    else:
        tried = enumerate(read_each(chosen, (lambda path: open_image(path).size) if allow_unreadable else open_size))
        skipped = [skip(index, chosen[index], error) for index, error in tried if isinstance(error, DataError)]
        judge(skipped, len(chosen), allow_unreadable)
    left_out = {item.index for item in skipped}
    kept = tuple(sample for index, sample in enumerate(chosen) if index not in left_out)
    prepared = Undecoded(kept, training) if prepared is None else prepared
    return ImageSplit(
        prepared if training == evaluation else Undecoded(kept, evaluation),
        np.array([sample.label for sample in kept], np.int64),
        tuple(str(sample.path) for sample in kept),
        preprocessing,
        len(skipped),
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


_RECORD, _INDEX, _PIXELS = "cache.json", "index.npy", "pixels.bin"
_SPARE = 64 * 2**20
"""Bytes that are left free on the disk."""

_log = logging.getLogger(__name__)


class CachedImages:
    """Images of a cache folder, whose file of bytes is mapped into memory in each process that reads.

    Each image is compared with its checksum whenever it is read. The index is (n, 4) int64: place in the file, height,
    width, CRC-32.
    """

    def __init__(self, folder: Path, index: NDArray[np.int64]) -> None:
        self.folder, self.index = folder, index
        self._bytes: NDArray[np.uint8] | None = None

    def __reduce__(self) -> tuple[Callable[..., CachedImages], tuple[Path, NDArray[np.int64]]]:
        return CachedImages, (self.folder, self.index)  # a mapping itself would travel as a copy of the whole file

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | slice) -> NDArray[np.uint8]:
        """(3, h, w) of one image, read-only; (n, 3, h, w) of some that have one size; DataError for damaged bytes."""
        if isinstance(key, slice):
            return np.stack([self[place] for place in range(*key.indices(len(self)))])
        if self._bytes is None:
            self._bytes = np.memmap(self.folder / _PIXELS, np.uint8, "r")
        start, height, width, checksum = map(int, self.index[key])
        found = self._bytes[start : start + 3 * height * width]
        if zlib.crc32(found.data) != checksum:
            raise DataError(
                f"the image at place {int(key)} of the cache {self.folder} is damaged; remove this folder, and the "
                "next run fills it again"
            )
        return found.reshape(3, height, width)


def open_cache(
    folder: Path,
    samples: Sequence[Sample],
    prepare: Preparation,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> tuple[CachedImages, list[Unreadable]]:
    """The cached images of these samples; what is not there, or is not what it was, is decoded first.

    An entry belongs to the list of files and the preparation. It is filled again where a file changed (size or time
    of change), and where the entry itself is cut or its index damaged. It appears under its name only when it is
    whole: a killed process leaves a part that the next one replaces, and of two processes the second waits.

    Entries of other data lie side by side in the folder.

    Raises:
        DataError: Too many images cannot be read.
        OutputError: The folder cannot be written, or the disk has too little room.
    """
    listing = sha256_text("\n".join(str(sample.path.resolve()) for sample in samples))
    stamps = []
    for sample in samples:
        # An image of a packed file (CIFAR) has that file's size and time of change.
        path = sample.path if sample.path.exists() else sample.path.parent
        status = path.stat() if path.is_file() else None
        stamps.append(f"{status.st_size} {status.st_mtime_ns}" if status else "absent")
    files = sha256_text("\n".join(stamps))
    ties = {"prepared": json.loads(json.dumps(prepare.as_record())), "listing": listing, "files": files}
    key = sha256_text(json.dumps([ties["prepared"], listing], sort_keys=True))[:16]
    entry = make_folder(Path(folder)) / key
    lock = FileLock(f"{entry}.lock")  # the system frees it where a process is killed
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        _log.warning("waiting for another process that fills the cache %s", entry)
        held = lock.acquire()
    with held:
        found = _opened(entry, ties)
        if found is None:
            _fill(entry, ties, samples, prepare, allow_unreadable, progress or Silent())
            found = _opened(entry, ties)
        if found is None:
            raise OutputError(f"the cache {entry} was filled but cannot be read back; try another `cache` folder")
    index, skipped = found
    judge(skipped, len(samples), allow_unreadable)
    return CachedImages(entry, index), skipped


def _opened(entry: Path, ties: dict[str, Any]) -> tuple[NDArray[np.int64], list[Unreadable]] | None:
    """Index and what was left out; None where the entry is absent, stale or damaged."""
    if not entry.is_dir():
        return None
    try:
        record = read_record(entry / _RECORD, "pictures")
        whole = (
            {name: record.get(name) for name in ties} == ties
            and (entry / _PIXELS).stat().st_size == record["bytes"]
            and sha256_file(entry / _INDEX) == record["index_sha256"]
        )
        if whole:
            index: NDArray[np.int64] = np.load(entry / _INDEX, allow_pickle=False)
            skipped = [Unreadable(item["index"], Path(item["path"]), item["reason"]) for item in record["skipped"]]
            return index, skipped
    except (RecordError, OSError, ValueError, LookupError, TypeError) as error:
        _log.info("the cache %s is not whole: %s", entry, error)
    _log.info("the cache %s is stale or damaged and is filled again", entry)
    return None


def _fill(
    entry: Path,
    ties: dict[str, Any],
    samples: Sequence[Sample],
    prepare: Preparation,
    allow_unreadable: int,
    progress: Progress,
) -> None:
    """Write the entry beside its place and put it there when it is whole."""

    def bytes_of(path: Path) -> int:
        height, width = prepare.fixed_size or prepare.size_of(*open_size(path))
        return 3 * height * width

    if prepare.fixed_size is None:  # by what the files state; decoding will name those that cannot be opened
        needed = sum(count for count in read_each(samples, bytes_of) if not isinstance(count, DataError))
    else:
        needed = bytes_of(samples[0].path) * len(samples)
    free = shutil.disk_usage(entry.parent).free
    if needed + _SPARE > free:
        raise OutputError(
            f"the cache of {len(samples)} images takes {_gigabytes(needed)}, but {entry.parent} has "
            f"{_gigabytes(free)} free; choose another `cache` folder, a smaller `resize`, or none"
        )
    _log.info("%d images are decoded into %s, %s", len(samples), entry, _gigabytes(needed))
    progress.stage(f"cache {_gigabytes(needed)}", len(samples))
    part = entry.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        rows: list[tuple[int, int, int, int]] = []
        skipped: list[Unreadable] = []
        with (part / _PIXELS).open("wb") as stream:
            for place, result in enumerate(read_each(samples, lambda path: prepare(open_image(path)))):
                if isinstance(result, DataError):
                    skipped.append(skip(place, samples[place], result))
                    if len(skipped) > allow_unreadable:
                        break  # refused below, now and not hours later
                else:
                    rows.append((stream.tell(), *result.shape[1:], zlib.crc32(result.data)))
                    stream.write(result.data)
                progress.advance(1)
        judge(skipped, len(samples), allow_unreadable)
        np.save(part / _INDEX, np.array(rows, np.int64))
        body = {
            **ties,
            "bytes": (part / _PIXELS).stat().st_size,
            "index_sha256": sha256_file(part / _INDEX),
            "skipped": [{"index": item.index, "path": str(item.path), "reason": item.reason} for item in skipped],
        }
        write_record(part / _RECORD, "pictures", body)
        shutil.rmtree(entry, ignore_errors=True)
        part.rename(entry)
    except OSError as error:
        raise OutputError(f"cannot write the cache {entry}: {error.strerror}; choose another `cache` folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

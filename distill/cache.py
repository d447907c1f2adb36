"""An on-disk cache of decoded, resized images: one file of bytes, mapped into memory, and an index beside it."""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import make_folder, read_record, sha256_file, sha256_text, write_record
from tavt_kit.data import Sample, Unreadable
from tavt_kit.data.loading import judge, read_each, skip
from tavt_kit.data.preprocess import open_image, open_size
from tavt_kit.distill.transforms import Preparation
from tavt_kit.errors import DataError, OutputError, RecordError

_RECORD, _INDEX, _PIXELS = "cache.json", "index.npy", "pixels.bin"
_SPARE = 64 * 2**20
"""Bytes that are left free on the disk."""

_log = logging.getLogger(__name__)


class CachedImages:
    """Images of a cache folder; nothing of it is held but the index.

    Each image is compared with its checksum whenever it is read.

    Args:
        folder: With the file of bytes; mapped into memory in each process that reads.
        index: (n, 4) int64: place in the file, height, width, CRC-32.
    """

    def __init__(self, folder: Path, index: NDArray[np.int64]) -> None:
        self.folder, self.index = folder, index
        self._bytes: NDArray[np.uint8] | None = None

    def __reduce__(self) -> tuple[Callable[..., CachedImages], tuple[Path, NDArray[np.int64]]]:
        return CachedImages, (self.folder, self.index)  # a mapping itself would travel as a copy of the whole file

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | slice) -> NDArray[np.uint8]:
        """(3, h, w) of one image, read-only; (n, 3, h, w) of some that have one size.

        Raises:
            DataError: The bytes are damaged.
        """
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
    *,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> tuple[CachedImages, list[Unreadable]]:
    """The cached images of these samples; what is not there, or is not what it was, is decoded first.

    An entry belongs to the list of files and the preparation. It is filled again where a file changed (size or time
    of change), and where the entry itself is cut or its index damaged. It appears under its name only when it is
    whole: a killed process leaves a part that the next one replaces, and of two processes the second waits.

    Args:
        folder: Of the cache; made if it is not there; entries of other data lie side by side in it.
        samples: In their order.
        prepare: What is done to each.
        allow_unreadable: How many may be left out.
        progress: Watches the filling.

    Raises:
        DataError: Too many images cannot be read.
        OutputError: The folder cannot be written, or the disk has too little room.
    """
    listing = sha256_text("\n".join(str(sample.path.resolve()) for sample in samples))
    ties = {"prepared": json.loads(json.dumps(prepare.as_record())), "listing": listing, "files": _stamp(samples)}
    key = sha256_text(json.dumps([ties["prepared"], listing], sort_keys=True))[:16]
    entry = make_folder(Path(folder)) / key
    with _locked(Path(f"{entry}.lock")):
        found = _opened(entry, ties)
        if found is None:
            _fill(entry, ties, samples, prepare, allow_unreadable, progress or Silent())
            found = _opened(entry, ties)
        if found is None:
            raise OutputError(f"the cache {entry} was filled but cannot be read back; try another `cache` folder")
    index, skipped = found
    judge(skipped, len(samples), allow_unreadable)
    return CachedImages(entry, index), skipped


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """The system frees the lock where a process is killed."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("waiting for another process that fills the cache %s", file.with_suffix(""))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _stamp(samples: Sequence[Sample]) -> str:
    """A hash of each file's size and time of change; it differs where an image was replaced."""
    lines = []
    for sample in samples:
        # An image of a packed file (CIFAR) has that file's.
        path = sample.path if sample.path.exists() else sample.path.parent
        found = path.stat() if path.is_file() else None
        lines.append(f"{found.st_size} {found.st_mtime_ns}" if found else "absent")
    return sha256_text("\n".join(lines))


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
    needed = _bytes_needed(samples, prepare)
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
        index, skipped = _write_pixels(part / _PIXELS, samples, prepare, allow_unreadable, progress)
        np.save(part / _INDEX, index)
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


def _write_pixels(
    file: Path, samples: Sequence[Sample], prepare: Preparation, allow_unreadable: int, progress: Progress
) -> tuple[NDArray[np.int64], list[Unreadable]]:
    rows: list[tuple[int, int, int, int]] = []
    skipped: list[Unreadable] = []
    with file.open("wb") as stream:
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
    return np.array(rows, np.int64), skipped


def _bytes_needed(samples: Sequence[Sample], prepare: Preparation) -> int:
    """Of all images; where they differ in size, by the sizes that their files state."""
    if prepare.fixed_size is not None:
        height, width = prepare.fixed_size
        return 3 * height * width * len(samples)

    def needed(path: Path) -> int:
        height, width = prepare.size_of(*open_size(path))
        return 3 * height * width

    # Decoding will name those that cannot be opened.
    return sum(count for count in read_each(samples, needed) if not isinstance(count, DataError))


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

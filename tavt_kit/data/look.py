"""What a data set is like: counts, balance, sizes, and images that are copies, within a split or in two of them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import ClassVar

from PIL import Image

from tavt_kit.core.codec import Record
from tavt_kit.core.records import sha256_file
from tavt_kit.data.images import ImageSet
from tavt_kit.data.loading import thin_out

_MEASURED = 200
"""Images whose sizes are looked at, spread evenly."""
_FEW = 10
"""Training images of a class below which nothing can be promised for it."""


@dataclass(frozen=True, slots=True)
class DataFacts(Record):
    """What was seen of a data set.

    Args:
        name: Name of the data set.
        classes: Number of classes.
        images: Images of each split.
        least: Training images of the smallest class.
        most: Training images of the largest class.
        shorter_edge: Median of the images' shorter edges, in pixels.
        doubles: Images that are byte for byte another one of the same split.
        leaks: Images that are byte for byte one of another split.
    """

    name: str
    classes: int
    images: Mapping[str, int]
    least: int
    most: int
    shorter_edge: int
    doubles: int
    leaks: int
    VIEWS: ClassVar[tuple[str, ...]] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a reader should know of it, the first sentence always, warnings where they apply."""
        counted = ", ".join(f"{count:,} {split}" for split, count in self.images.items())
        found = [
            f"{self.name}: {self.classes} classes; {counted}; {self.least} to {self.most} training images a class; "
            f"the shorter edge has {self.shorter_edge} pixels (median)."
        ]
        if self.least < _FEW:
            found.append(f"A class has only {self.least} training images: expect little of it.")
        if self.most > 10 * self.least:
            found.append(
                "The largest class is over ten times the smallest: top-1 says little of the small ones; `eval` does."
            )
        if self.doubles:
            found.append(f"{self.doubles} images are copies of another one in their split.")
        if self.leaks:
            found.append(
                f"{self.leaks} images are in two splits: what is measured on val and test is too good; remove them."
            )
        return tuple(found)


def look_at(images: ImageSet) -> DataFacts:
    """Look at a data set; only files of equal length are read whole, to find copies.

    Raises:
        OSError: A file is gone.
    """
    counts = images.counts("train")
    doubles, leaks = _copies(images)
    sampled = thin_out([sample for split in images.splits for sample in images.split(split)], _MEASURED)
    edges = [edge for sample in sampled if (edge := _shorter_edge(sample.path)) is not None]
    return DataFacts(
        images.name, len(images.classes), {split: len(samples) for split, samples in images.splits.items()},
        min(counts), max(counts), round(median(edges)) if edges else 0, doubles, leaks,
    )  # fmt: skip


def _shorter_edge(path: Path) -> int | None:
    """Of one image; None where it cannot be read, which loading says later."""
    try:
        with Image.open(path) as image:
            return min(image.size)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _copies(images: ImageSet) -> tuple[int, int]:
    """Copies within a split, and images that are in two splits."""
    by_length: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for split, samples in images.splits.items():
        for sample in samples:
            by_length[sample.path.stat().st_size].append((split, sample.path))
    doubles = leaks = 0
    for members in by_length.values():
        if len(members) < 2:
            continue
        seen: dict[bytes, set[str]] = defaultdict(set)
        for split, path in members:
            splits = seen[hashlib.sha256(path.read_bytes()).digest()]
            doubles += split in splits
            leaks += bool(splits) and split not in splits
            splits.add(split)
    return doubles, leaks


_MOST = 100_000
"""Images whose bytes are compared; of more only their files are, which takes seconds instead of minutes."""
_log = logging.getLogger(__name__)

_Group = list[tuple[str, Path, os.stat_result]]


def leaks(images: ImageSet) -> list[tuple[Path, Path]]:
    """Pairs of images in different splits that are one file or hold the same bytes."""
    whole: _Group = [
        (split, sample.path, sample.path.stat())
        for split, samples in images.splits.items()
        for sample in samples
        if sample.path.is_file()  # CIFAR's lie in one file
    ]
    found = [_pair(group) for group in _shared(whole, lambda one: (one[2].st_dev, one[2].st_ino))]
    if len(whole) > _MOST:
        return found
    for group in _shared(whole, lambda one: one[2].st_size):
        for same in _shared(group, lambda one: _some_bytes(one[1])):
            found += [_pair(equal) for equal in _shared(same, lambda one: sha256_file(one[1]))]
    return list(dict.fromkeys(found))


def warn_of_leaks(images: ImageSet) -> ImageSet:
    """The images, after a warning where splits share some."""
    if found := leaks(images):
        one, other = (images.root / path for path in found[0])
        _log.warning(
            "%d images of %s are in two splits, such as %s and %s: accuracies on them are no test; remove one of each",
            len(found), images.name, os.path.relpath(one, images.root), os.path.relpath(other, images.root),
        )  # fmt: skip
    return images


def _shared(group: Iterable[tuple[str, Path, os.stat_result]], key: Callable[..., Hashable]) -> Iterator[_Group]:
    """The parts of a group that are alike and of several splits."""
    parts: dict[Hashable, _Group] = defaultdict(list)
    for one in group:
        parts[key(one)].append(one)
    return (part for part in parts.values() if len({split for split, *_ in part}) > 1)


def _pair(group: _Group) -> tuple[Path, Path]:
    first = group[0]
    return first[1], next(path for split, path, _ in group if split != first[0])


def _some_bytes(path: Path) -> bytes:
    """From the middle, where images of one size and format differ."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(256)

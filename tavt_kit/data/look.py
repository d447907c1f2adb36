"""What a data set is like: counts, balance, sizes, and images that are copies, within a split or in two of them."""

from __future__ import annotations

import logging
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image

from tavt_kit.core.codec import Record
from tavt_kit.core.records import sha256_file
from tavt_kit.data.images import ImageSet
from tavt_kit.data.loading import thin_out

_MEASURED = 200
"""Images whose sizes are looked at, spread evenly."""
_MOST = 100_000
"""Images whose bytes are compared."""
_log = logging.getLogger(__name__)
_FEW = 10
"""Training images of a class below which nothing can be promised for it."""


@dataclass(frozen=True, slots=True)
class DataFacts(Record):
    """What was seen of a data set.

    Args:
        least: Training images of the smallest class; ``most`` of the largest.
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

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a reader should know of it, the first sentence always, warnings where they apply."""
        counted = ", ".join(f"{count:,} {split}" for split, count in self.images.items())
        said = [
            f"{self.name}: {self.classes} classes; {counted}; {self.least} to {self.most} training images a class; "
            f"the shorter edge has {self.shorter_edge} pixels (median)."
        ]
        if self.least < _FEW:
            said.append(f"A class has only {self.least} training image{'s' * (self.least > 1)}: expect little of it.")
        if self.most > 10 * self.least:
            said.append(
                "The largest class is over ten times the smallest: top-1 says little of the small ones; `eval` does."
            )
        if self.doubles:
            said.append(f"{self.doubles} images are copies of another one in their split.")
        if self.leaks:
            said.append(
                f"{self.leaks} images are in two splits: what is measured on val and test is too good; remove them."
            )
        return tuple(said)


def look_at(images: ImageSet) -> DataFacts:
    """Look at a data set; only files of equal length are read whole, to find copies."""
    counts = images.counts("train")
    groups = [[split for split, _ in group] for group in copies(images)]
    # Of a group, an image is a double if its split came before, and a leak if only others did.
    before = [(split, group[:place]) for group in groups for place, split in enumerate(group) if place]
    sampled = thin_out([sample for split in images.splits for sample in images.split(split)], _MEASURED)
    edges = []
    for sample in sampled:
        try:
            with Image.open(sample.path) as image:
                edges.append(min(image.size))
        except (OSError, ValueError, Image.DecompressionBombError):
            pass  # loading says so later
    return DataFacts(
        images.name, len(images.classes), {split: len(samples) for split, samples in images.splits.items()},
        min(counts), max(counts), round(median(edges)) if edges else 0,
        sum(split in others for split, others in before), sum(split not in others for split, others in before),
    )  # fmt: skip


_Group = list[tuple[str, Path]]
"""Splits and images."""


def copies(images: ImageSet, *, across: bool = False) -> list[_Group]:
    """Groups of images that are one file or hold the same bytes, in the order of the splits.

    Of more than 100,000 images only the files are compared, which takes seconds instead of minutes; with ``across``
    groups within one split are left out.
    """
    files = [(split, each.path) for split, samples in images.splits.items() for each in samples]
    keys: tuple[Callable[[Path], Hashable], ...] = (_status("st_size"), _some_bytes, sha256_file)
    if len(files) > _MOST:
        keys = (_status("st_dev", "st_ino"),)
    groups = [files]
    for key in keys:
        groups = [part for group in groups for part in _alike(group, key, across)]
    return groups


def warn_of_leaks(images: ImageSet) -> ImageSet:
    """The images, after a warning where splits share some."""
    if shared := copies(images, across=True):
        split, path = shared[0][0]
        other = next(double for own, double in shared[0] if own != split)
        _log.warning(
            "%d images of %s are in two splits, such as %s and %s: accuracies on them are no test; remove one of each",
            len(shared), images.name, os.path.relpath(path, images.root), os.path.relpath(other, images.root),
        )  # fmt: skip
    return images


def _alike(group: _Group, key: Callable[[Path], Hashable], across: bool) -> Iterator[_Group]:
    parts: dict[Hashable, _Group] = defaultdict(list)
    for split, path in group:
        parts[key(path)].append((split, path))
    parts.pop(None, None)
    return (part for part in parts.values() if len({split for split, _ in part} if across else part) > 1)


def _status(*names: str) -> Callable[[Path], Hashable]:
    """A function of a path that gives facts of a file; None of what is none."""

    def facts(path: Path) -> Hashable:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        return tuple(getattr(status, name) for name in names) if stat.S_ISREG(status.st_mode) else None

    return facts


def _some_bytes(path: Path) -> bytes:
    """From the middle, where images of one size and format differ."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(256)

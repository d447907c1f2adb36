"""Images that several splits see: one file by two names, or equal bytes."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path

from tavt_kit.core.records import sha256_file
from tavt_kit.data.images import ImageSet

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

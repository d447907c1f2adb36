"""What a data set's own annotation files say, and how they are read: id lists, label lists and MATLAB files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tavt_kit.data.images import Sample
from tavt_kit.errors import DataError


@dataclass(frozen=True, slots=True)
class Listing:
    """A data set as published, before anything is carved or checked on the disk.

    Args:
        classes: Names, in the order of the data set's own labels.
        parts: ``"train"``, ``"test"`` and, where one is published, ``"val"``.
        hierarchy: Of a class, the names of its ancestors, the nearest first; empty where none is published.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, tuple[Sample, ...]]
    hierarchy: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_lines(file: Path) -> list[str]:
    """The lines that are not blank, with or without a newline after the last.

    Raises:
        DataError: The file is missing or is not text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"the annotation file {file} is missing; unpack the data set's archive again and keep its folders"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the annotation file {file} cannot be read: {error}") from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_pairs(file: Path) -> dict[str, str]:
    """Lines ``id value``, the value may have spaces.

    Raises:
        DataError: The file is missing, a line has no value, or an id stands twice.
    """
    pairs: dict[str, str] = {}
    for line in read_lines(file):
        key, _, value = line.partition(" ")
        if not value.strip():
            raise DataError(f"every line of {file} must be 'id value', got {line!r}; unpack the archive again")
        if key in pairs:
            raise DataError(f"every id must stand once in {file}, but {key!r} stands twice; unpack the archive again")
        pairs[key] = value.strip()
    return pairs


def read_mat(file: Path, name: str) -> Any:
    """One variable of a MATLAB file, without its axes of length 1; at least 1-D.

    Raises:
        DataError: The file is missing, is damaged, or has no such variable.
    """
    import numpy as np
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(
            f"the annotation file {file} is missing; unpack the data set's archive again and keep its folders"
        )
    try:
        found = loadmat(str(file), squeeze_me=True, variable_names=[name])
    except Exception as error:  # scipy raises anything from ValueError to zlib.error on a damaged file
        raise DataError(f"{file} cannot be read as a MATLAB file ({error}); download it again") from None
    if name not in found:
        raise DataError(f"{file} must hold the variable {name!r}, but does not; download it again")
    return np.atleast_1d(found[name])


def numbered(labels: Any, classes: int, file: Path) -> list[int]:
    """Labels that count from 1, as indices from 0; MATLAB's uint8 becomes Python's int before the 1 is taken off.

    Raises:
        DataError: A label is not in 1..classes.
    """
    try:
        found = [int(label) - 1 for label in labels]
    except (TypeError, ValueError):
        raise DataError(f"the labels in {file} must be numbers from 1 to {classes}; download it again") from None
    for label in found:
        if not 0 <= label < classes:
            raise DataError(f"the labels in {file} must be 1 to {classes}, got {label + 1}; download it again")
    return found


def unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """Of ids, names that differ: a name that two ids share gets its id behind it."""
    count = Counter(names.values())
    return {key: f"{name} ({key})" if count[name] > 1 else name for key, name in names.items()}


def absent_images(samples: Iterable[Sample]) -> list[Path]:
    """The listed images that are not on the disk, in order; each folder is listed once, no image is opened."""
    known: dict[Path, frozenset[str]] = {}
    missing = []
    for sample in samples:
        folder = sample.path.parent
        if folder not in known:
            known[folder] = frozenset(each.name for each in os.scandir(folder)) if folder.is_dir() else frozenset()
        # An image inside a binary file (CIFAR) has the file as its folder; its reader has checked the size.
        if sample.path.name not in known[folder] and not folder.is_file():
            missing.append(sample.path)
    return missing

"""CIFAR-10 and CIFAR-100 in their binary version: images of 32 by 32 in a few files of fixed-size records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tavt_kit.data.images import Sample
from tavt_kit.data.listing import Listing, read_lines
from tavt_kit.data.packed import PIXELS
from tavt_kit.errors import DataError


def read_cifar10(root: Path) -> Listing:
    """Read ``data_batch_1.bin`` to ``_5``, ``test_batch.bin`` and ``batches.meta.txt``.

    An image's path is the file and its place in it, ``data_batch_1.bin/00017``.

    Raises:
        DataError: A file is missing or cut off, or this is the Python version, whose pickles are not opened.
    """
    _refuse_pickles(root, "data_batch_1", "cifar-10-binary.tar.gz")
    classes = tuple(read_lines(root / "batches.meta.txt"))
    train = [root / f"data_batch_{i}.bin" for i in range(1, 6)]
    return _listing(classes, train, root / "test_batch.bin", 1)


def read_cifar100(root: Path) -> Listing:
    """Read ``train.bin``, ``test.bin`` and ``fine_label_names.txt``; the fine labels are the classes.

    Raises:
        DataError: As ``read_cifar10``.
    """
    _refuse_pickles(root, "train", "cifar-100-binary.tar.gz")
    return _listing(tuple(read_lines(root / "fine_label_names.txt")), [root / "train.bin"], root / "test.bin", 2)


def _refuse_pickles(root: Path, name: str, archive: str) -> None:
    if (root / name).is_file() and not (root / f"{name}.bin").exists():
        raise DataError(
            f"{root} holds CIFAR's Python version, whose pickles can run code and are not opened; "
            f"download the binary version, {archive}"
        )


def _listing(classes: tuple[str, ...], train: list[Path], test: Path, label_bytes: int) -> Listing:
    parts = {
        "train": tuple(sample for file in train for sample in _records(file, label_bytes, len(classes))),
        "test": tuple(_records(test, label_bytes, len(classes))),
    }
    return Listing(classes, parts)


def _records(file: Path, label_bytes: int, classes: int) -> list[Sample]:
    size = label_bytes + PIXELS
    if not file.is_file():
        raise DataError(f"the file {file} is missing; unpack CIFAR's binary version again")
    data = np.fromfile(file, np.uint8)
    if not len(data) or len(data) % size:
        raise DataError(f"{file} must be whole records of {size} bytes, got {len(data)} bytes; download it again")
    labels = data.reshape(-1, size)[:, label_bytes - 1]
    if labels.max() >= classes:
        raise DataError(f"the labels in {file} must be below {classes}, got {labels.max()}; download it again")
    return [Sample(file / f"{place:05}", int(label)) for place, label in enumerate(labels)]

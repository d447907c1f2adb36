"""CUB-200-2011 and NABirds: text files that give each image's id a path, a class and a part."""

from __future__ import annotations

from pathlib import Path

from tavt_kit.data.images import Sample
from tavt_kit.data.label_lists import read_label_lists
from tavt_kit.data.listing import Listing, read_pairs, unique_names
from tavt_kit.errors import DataError


def read_cub(root: Path) -> Listing:
    """Read ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and ``classes.txt``.

    A folder with ``anno/train.txt`` and ``anno/test.txt`` instead (as Mix-ViT wants it) is read as such.

    Raises:
        DataError: A file is missing or contradicts another.
    """
    if not (root / "images.txt").exists() and (root / "anno" / "train.txt").exists():
        return read_label_lists(root)
    names = read_pairs(root / "classes.txt")
    return Listing(*_read(root, {key: names[key] for key in sorted(names, key=_number)}))


def read_nabirds(root: Path) -> Listing:
    """Read NABirds: of 1,011 nodes the 555 that have images are the classes, in the order of their ids.

    Raises:
        DataError: A file is missing or contradicts another.
    """
    names = read_pairs(root / "classes.txt")
    used = sorted(set(read_pairs(root / "image_class_labels.txt").values()), key=_number)
    if unknown := [key for key in used if key not in names]:
        raise DataError(f"{root / 'classes.txt'} does not name class {unknown[0]}; unpack the archive again")
    classes, parts = _read(root, unique_names({key: names[key] for key in used}))
    parents = read_pairs(root / "hierarchy.txt")
    ancestors = [tuple(names.get(key, key) for key in _upwards(key, parents)) for key in used]
    return Listing(classes, parts, dict(zip(classes, ancestors, strict=True)))


def _read(root: Path, names: dict[str, str]) -> tuple[tuple[str, ...], dict[str, tuple[Sample, ...]]]:
    labels = {key: label for label, key in enumerate(names)}
    paths = read_pairs(root / "images.txt")
    classes, training = read_pairs(root / "image_class_labels.txt"), read_pairs(root / "train_test_split.txt")
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for key, path in paths.items():
        label, part = labels.get(classes.get(key, "")), {"1": "train", "0": "test"}.get(training.get(key, ""))
        if label is None or part is None:
            raise DataError(
                f"image {key!r} of {root / 'images.txt'} needs a known class in image_class_labels.txt and 0 or 1 in "
                "train_test_split.txt; unpack the archive again"
            )
        parts[part].append(Sample(root / "images" / path, label))
    return tuple(names.values()), {name: tuple(samples) for name, samples in parts.items()}


def _upwards(key: str, parents: dict[str, str]) -> list[str]:
    """The ids above ``key``; a loop in the file ends the way."""
    way: list[str] = []
    while key in parents and parents[key] not in (key, *way):
        key = parents[key]
        way.append(key)
    return way


def _number(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdigit() else (-1, key)

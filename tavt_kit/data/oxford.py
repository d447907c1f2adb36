"""FGVC-Aircraft, Oxford 102 Flowers and Oxford-IIIT Pet."""

from __future__ import annotations

from pathlib import Path

from tavt_kit.data.images import Sample
from tavt_kit.data.label_lists import read_label_lists
from tavt_kit.data.listing import Listing, numbered, read_lines, read_mat, read_pairs
from tavt_kit.errors import DataError


def read_aircraft(root: Path) -> Listing:
    """Read ``variants.txt`` and ``images_variant_{train,val,test}.txt`` in ``data/``.

    A folder with home-made ``train.txt`` and ``test.txt`` (``file label``) instead, as TransFG wants it, is read too.

    Raises:
        DataError: A list is missing, or names an unknown variant.
    """
    if not (root / "variants.txt").exists() and (root / "train.txt").exists():
        return read_label_lists(root, "")
    classes = tuple(read_lines(root / "variants.txt"))
    labels = {name: label for label, name in enumerate(classes)}
    parts = {}
    for part in ("train", "val", "test"):
        file = root / f"images_variant_{part}.txt"
        rows = read_pairs(file)
        if unknown := sorted(set(rows.values()) - set(labels)):
            raise DataError(f"{file} names the variant {unknown[0]!r}, which {root / 'variants.txt'} does not list")
        parts[part] = tuple(Sample(root / "images" / f"{key}.jpg", labels[name]) for key, name in rows.items())
    return Listing(classes, parts)


def read_flowers(root: Path) -> Listing:
    """Read ``imagelabels.mat`` and ``setid.mat``; the files name no class, so a class is called by its number.

    Raises:
        DataError: A file is missing or damaged, or a part names an image that has no label.
    """
    file = root / "setid.mat"
    raw = read_mat(root / "imagelabels.mat", "labels")
    classes = int(raw.max(initial=0))
    labels = numbered(raw, classes, root / "imagelabels.mat")
    parts = {}
    for part, name in {"train": "trnid", "val": "valid", "test": "tstid"}.items():
        ids = numbered(read_mat(file, name), len(labels), file)
        parts[part] = tuple(Sample(root / "jpg" / f"image_{i + 1:05}.jpg", labels[i]) for i in ids)
    return Listing(tuple(str(number) for number in range(1, classes + 1)), parts)


def read_pets(root: Path) -> Listing:
    """Read ``annotations/trainval.txt`` and ``test.txt``: ``name class species breed``.

    Raises:
        DataError: A list is missing, a line has other words, or a class has two names.
    """
    rows = {
        part: _pets(root / "annotations" / file) for part, file in {"train": "trainval.txt", "test": "test.txt"}.items()
    }
    breeds: dict[int, tuple[str, str]] = {}
    for part, found in rows.items():
        for name, number, species in found:
            breed = (name.rpartition("_")[0], species)
            if breeds.setdefault(number, breed) != breed:
                raise DataError(f"class {number} of the {part} list in {root} means {breeds[number][0]} and {breed[0]}")
    labels = {number: label for label, number in enumerate(sorted(breeds))}
    parts = {
        part: tuple(Sample(root / "images" / f"{name}.jpg", labels[number]) for name, number, _ in found)
        for part, found in rows.items()
    }
    return Listing(
        tuple(breeds[number][0] for number in labels), parts, {name: (kind,) for name, kind in breeds.values()}
    )


def _pets(file: Path) -> list[tuple[str, int, str]]:
    rows = []
    for line in read_lines(file):
        if line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 4 or not words[1].isdigit() or words[2] not in ("1", "2"):
            raise DataError(f"every line of {file} must be 'name class species breed', got {line!r}; unpack it again")
        rows.append((words[0], int(words[1]), "cat" if words[2] == "1" else "dog"))
    return rows

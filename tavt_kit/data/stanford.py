"""Stanford Cars and Stanford Dogs: annotations in MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tavt_kit.data.images import Sample
from tavt_kit.data.listing import Listing, numbered, read_mat
from tavt_kit.errors import DataError

_WITH_LABELS = "cars_test_annos_withlabels.mat"


def read_cars(root: Path) -> Listing:
    """Read ``devkit/cars_meta.mat`` and the two lists of annotations.

    The test labels are a download of their own; they are looked for in ``devkit/`` and beside it.

    Raises:
        DataError: A file is missing or damaged.
    """
    classes = tuple(str(name) for name in read_mat(root / "devkit" / "cars_meta.mat", "class_names"))
    places = [root / "devkit" / _WITH_LABELS, root / _WITH_LABELS]
    test = next((place for place in places if place.is_file()), None)
    if test is None:
        raise DataError(
            f"the test labels of Stanford Cars, {_WITH_LABELS}, are missing; download this file too and put it into "
            f"{root / 'devkit'}"
        )
    return Listing(
        classes,
        {
            "train": _cars(root / "devkit" / "cars_train_annos.mat", root / "cars_train", len(classes)),
            "test": _cars(test, root / "cars_test", len(classes)),
        },
    )


def _cars(file: Path, images: Path, classes: int) -> tuple[Sample, ...]:
    rows = read_mat(file, "annotations")
    if missing := {"class", "fname"} - set(rows.dtype.names or ()):
        raise DataError(f"the annotations in {file} must have the field {missing.pop()!r}; download it again")
    labels = numbered(rows["class"], classes, file)
    return tuple(Sample(images / str(name), label) for name, label in zip(rows["fname"], labels, strict=True))


def read_dogs(root: Path) -> Listing:
    """Read ``train_list.mat`` and ``test_list.mat``; the images lie in ``Images/``, a folder for each breed.

    Raises:
        DataError: A file is missing or damaged, or one label has two breeds' folders.
    """
    rows = {part: _dogs(root / f"{part}_list.mat") for part in ("train", "test")}
    breeds: dict[int, str] = {}
    for part, found in rows.items():
        for name, label in found:
            breed = name.split("/")[0]
            if breeds.setdefault(label, breed) != breed:
                raise DataError(
                    f"a label must mean one breed, but in {root / f'{part}_list.mat'} {label + 1} means "
                    f"{breeds[label]} and {breed}; download it again"
                )
    labels = {number: label for label, number in enumerate(sorted(breeds))}
    parts = {
        part: tuple(Sample(root / "Images" / f"{name}.jpg", labels[label]) for name, label in found)
        for part, found in rows.items()
    }
    return Listing(tuple(breeds[number] for number in labels), parts)


def _dogs(file: Path) -> list[tuple[str, int]]:
    names: Any = read_mat(file, "annotation_list")
    labels = numbered(read_mat(file, "labels"), 10**6, file)
    if len(names) != len(labels):
        raise DataError(f"{file} lists {len(names)} images but {len(labels)} labels; download it again")
    return [(str(name), label) for name, label in zip(names, labels, strict=True)]

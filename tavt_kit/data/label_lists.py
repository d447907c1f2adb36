"""Lists of ``file label``: the ultra-fine-grained leaves, AFD, WRD, BTF, and the home-made Aircraft folder."""

from __future__ import annotations

from pathlib import Path

from tavt_kit.data.images import Sample
from tavt_kit.data.listing import Listing, read_lines
from tavt_kit.errors import DataError


def read_label_lists(root: Path, lists: str = "anno") -> Listing:
    """Read ``anno/train.txt`` and ``anno/test.txt``; the files they name lie in ``images/``.

    A label is the last word of its line, so that file names may have spaces. Labels count from 1; a class is called
    by its number.

    Args:
        root: The data set.
        lists: The folder of the two lists; ``""`` where they lie beside ``images/``.

    Raises:
        DataError: A list is missing, or a line is not ``file label``.
    """
    rows = {part: _read(root / lists / f"{part}.txt") for part in ("train", "test")}
    numbers = sorted({number for part in rows.values() for _, number in part})
    labels = {number: label for label, number in enumerate(numbers)}
    parts = {
        part: tuple(Sample(root / "images" / name, labels[number]) for name, number in found)
        for part, found in rows.items()
    }
    return Listing(tuple(str(number) for number in numbers), parts)


def _read(file: Path) -> list[tuple[str, int]]:
    rows = []
    for line in read_lines(file):
        name, _, label = line.rpartition(" ")
        if not name.strip() or not label.isdigit() or int(label) < 1:
            raise DataError(f"every line of {file} must be 'file label', the label from 1, got {line!r}; repair it")
        rows.append((name.strip(), int(label)))
    return rows

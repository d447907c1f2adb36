"""ReaL: reassessed labels of ImageNet's val, several or none to a picture (Beyer et al., 2020, arXiv 2006.07159)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from tavt_kit.data.images import Sample
from tavt_kit.errors import DataError

__all__ = ["count_real", "read_real"]

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_real(file: Path) -> list[frozenset[int]]:
    """Read ``real.json``: for each picture of val, in the order of their numbers, the classes it may be called.

    Classes count from 0 in the order of the sorted WordNet ids, as ours do.

    Raises:
        DataError: The file is missing or is not a list of lists of class numbers.
    """
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"the ReaL labels {file} are missing; give the real.json of reassessed-imagenet") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a JSON file: {error}; give the real.json of reassessed-imagenet") from None
    if not isinstance(body, list) or not all(
        isinstance(row, list) and all(type(label) is int for label in row) for row in body
    ):
        raise DataError(f"{file} must be a list of lists of class numbers; give the real.json of reassessed-imagenet")
    return [frozenset(row) for row in body]


def count_real(samples: Sequence[Sample], guessed: Sequence[int], labels: Sequence[frozenset[int]]) -> tuple[int, int]:
    """How many guesses are among the picture's labels, and how many pictures have any label.

    Args:
        samples: Of ImageNet's val; their files keep their published names.
        guessed: Class indices, one for each sample.
        labels: From ``read_real``.

    Raises:
        DataError: A file is not called ``ILSVRC2012_val_NNNNNNNN``, its number is not in the list, or no picture
            has a label.
    """
    right = total = 0
    for sample, guess in zip(samples, guessed, strict=True):
        match = _NUMBER.match(sample.path.name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(labels):
            raise DataError(
                f"ReaL labels go by the names ILSVRC2012_val_00000001 to {len(labels):08}, got {sample.path.name}; "
                "evaluate ImageNet's val with its files named as published"
            )
        right += guess in labels[number - 1]
        total += bool(labels[number - 1])
    if not total:
        raise DataError(f"none of the {len(samples)} pictures has a ReaL label; evaluate more of ImageNet's val")
    return right, total

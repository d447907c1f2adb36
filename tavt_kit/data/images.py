"""ImageSet: named images with labels, in splits. A value; nothing is decoded here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tavt_kit.core.model_card import Licence
from tavt_kit.core.records import sha256_file, sha256_text
from tavt_kit.errors import DataError

SPLITS = ("train", "val", "test")
_SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What is taken for an image in a class folder; Thumbs.db, .DS_Store and notes are not."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: where it can be opened, and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with labels in up to three splits; each split sorted by class, then path.

    Args:
        classes: Names, sorted, or in the order of the data set's own labels; a label is an index into them.
        root: What paths in records are relative to.
        splits: ``"train"``, ``"val"`` and, where there is one, ``"test"``.
        made: How the splits came about, one phrase for people; by which seed, where we made them.
        note: A sentence that must be said of it.

    Raises:
        DataError: Fewer than two classes, an empty split, a class without training images, or an image
            that is in two places.
    """

    name: str
    classes: tuple[str, ...]
    root: Path
    splits: Mapping[str, tuple[Sample, ...]]
    made: str = "as given"
    seed: int | None = None
    licence: Licence | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(
                f"classification needs at least two classes, but {self.name} has "
                f"{len(self.classes)}{''.join(f' ({name})' for name in self.classes)}; "
                "give one folder (or CSV label) per class"
            )
        ordered = {
            name: tuple(sorted(self.splits[name], key=lambda sample: (sample.label, sample.path.as_posix())))
            for name in SPLITS
            if name in self.splits
        }
        object.__setattr__(self, "splits", MappingProxyType(ordered))
        seen: dict[str, str] = {}
        for name, samples in self.splits.items():
            for sample in samples:
                path = os.path.normcase(sample.path)  # a text is hashed in a tenth of the time of a path
                if path in seen:
                    raise DataError(
                        f"every image must be listed once, but {self.relative(sample)} is in "
                        f"{seen[path]} and again in {name}; selection and test must not see the same image"
                    )
                seen[path] = name
        for name in ("train", "val"):
            if name not in self.splits:
                raise DataError(f"{self.name} has no {name} split; give one, or one folder per class to be split")
        for name, samples in self.splits.items():
            if not samples:
                raise DataError(f"the {name} split of {self.name} has no images; add some to every class")
        counts = self.counts("train")
        for label, class_name in enumerate(self.classes):
            if not counts[label]:
                raise DataError(
                    f"class {class_name!r} of {self.name} has no training image; add some or remove the class"
                )

    def __len__(self) -> int:
        return sum(len(samples) for samples in self.splits.values())

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of ``"train"``, ``"val"`` or ``"test"``; DataError where there is no such split."""
        if name not in self.splits:
            raise DataError(f"{self.name} has the splits {', '.join(self.splits)}, but {name!r} was asked for")
        return self.splits[name]

    def require_classes(self, known: tuple[str, ...]) -> None:
        """Raise DataError for a model that knows other classes, or the same in another order."""
        if known != self.classes:
            raise DataError(
                f"the model knows {list_classes(known)}, but {self.name} has {list_classes(self.classes)}; give the "
                "data it was trained on, or train a new head"
            )

    @property
    def held_out(self) -> str:
        """The split for final figures: ``"test"``, else ``"val"`` (a report must then say so)."""
        return "test" if "test" in self.splits else "val"

    def counts(self, split: str) -> tuple[int, ...]:
        """Images of each class in a split."""
        count = Counter(sample.label for sample in self.split(split))
        return tuple(count[label] for label in range(len(self.classes)))

    def relative(self, sample: Sample) -> str:
        """The sample's path as records write it."""
        return Path(os.path.relpath(sample.path, self.root)).as_posix()

    @property
    def sha256(self) -> str:
        """Of the listing: classes, each split's labels and relative paths; no image is read."""
        lines = [f"class\t{name}" for name in self.classes]
        for name, samples in self.splits.items():
            lines += [f"{name}\t{sample.label}\t{self.relative(sample)}" for sample in samples]
        return sha256_text("\n".join(lines))


def sha256_samples(samples: Iterable[Sample], classes: Sequence[str]) -> str:
    """Of what the images' files hold and what they show, in their order: names and folders may differ."""
    try:
        return sha256_text("\n".join(f"{sha256_file(sample.path)}\t{classes[sample.label]}" for sample in samples))
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; give data whose images can be read") from None


def split_name(text: str) -> str | None:
    """The split a folder or CSV entry means: ``"Validation"`` is ``"val"``; None if it means none."""
    text = text.strip().lower()
    text = _SYNONYMS.get(text, text)
    return text if text in SPLITS else None


def list_classes(names: Sequence[str], what: str = "classes") -> str:
    """How many classes there are, and the first of them, for people; ``what`` is said of them."""
    return f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"

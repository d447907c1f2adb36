"""Dividing images into train, val and test, and the record that keeps later verbs on that division."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tavt_kit.core.codec import Record
from tavt_kit.core.model_card import Licence
from tavt_kit.core.records import read_record, reading, sha256_text, write_record
from tavt_kit.data.images import ImageSet, Sample
from tavt_kit.errors import DataError, RecordError

_log = logging.getLogger(__name__)

SPLIT_FILE = "split.json"


def divide(
    samples: Iterable[Sample], root: Path, *, seed: int, shares: Mapping[str, float]
) -> dict[str, tuple[Sample, ...]]:
    """Stratified division: within each class, images are ordered by a hash and cut at the shares; train is the rest.

    The order is the SHA-256 of seed and path below ``root``, so it depends on no library's random stream nor on where
    the data lies, and an image added later does not reshuffle the others. The shares are met in each class to the
    nearest image; a class of one or two images goes to training.
    """
    parts: dict[str, list[Sample]] = {"train": [], **{name: [] for name in shares}}
    classes: dict[int, list[Sample]] = {}
    for sample in samples:
        classes.setdefault(sample.label, []).append(sample)
    for label in sorted(classes):
        ordered = sorted(classes[label], key=lambda sample: sha256_text(f"{seed}/{inside(sample.path, root)}"))
        start = 0
        for name, share in shares.items():
            end = start + round(len(ordered) * share)
            parts[name] += ordered[start:end]
            start = end
        parts["train"] += ordered[start:]
    return {name: tuple(part) for name, part in parts.items()}


def carve(given: Mapping[str, Sequence[Sample]], root: Path, *, seed: int, val: float | None = None) -> dict[str, Any]:
    """The splits of an ``ImageSet``, how they were made, and their seed: nothing may be selected on test.

    Without a val it is taken out of train: the share ``val``, or else a quarter, or a fifth and as much for a test
    where that is missing too; what is given stays as it is. All of the data is ``"train"`` where it is not divided.
    """
    splits = {name: tuple(samples) for name, samples in given.items()}
    if "val" in splits or "train" not in splits:
        return {"splits": splits, "made": "as given", "seed": None}
    shares = {"val": 0.25} if "test" in splits else {"val": 0.2, "test": 0.2}
    if val is not None:
        shares = {"val": val}
    percent = "/".join(f"{100 * share:.3g}" for share in (1 - sum(shares.values()), *shares.values()))
    made = f"{'val taken from train, ' if 'test' in splits else ''}random, stratified by class, {percent}"
    return {"splits": splits | divide(splits["train"], root, seed=seed, shares=shares), "made": made, "seed": seed}


def inside(path: Path, root: Path) -> str:
    """An image's path as records have it: below the root, where it is there."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


@dataclass(frozen=True, slots=True)
class _SplitRecord(Record):
    """``split.json``; see ``ImageSet`` for the fields."""

    name: str
    root: Path
    classes: tuple[str, ...]
    made: str
    seed: int | None
    licence: Licence | None
    note: str
    sha256: str
    splits: Mapping[str, tuple[tuple[str, int], ...]]
    sizes_sha256: str = ""
    BESIDE: ClassVar[tuple[str, ...]] = ("schema", "version", "hierarchy", "fraction")  # which older runs have

    def __post_init__(self) -> None:
        known = range(len(self.classes))
        if wrong := next((entry for part in self.splits.values() for entry in part if entry[1] not in known), None):
            raise RecordError(f"{wrong[0]} must be of one of {len(known)} classes, but is of number {wrong[1]}")


def write_split(folder: Path, images: ImageSet) -> None:
    """Write ``split.json``: which image is in which split, so that later verbs inherit it."""
    splits = {
        name: tuple((images.relative(sample), sample.label) for sample in samples)
        for name, samples in images.splits.items()
    }
    own = {name: getattr(images, name) for name in _SplitRecord.__slots__ if name not in ("splits", "sizes_sha256")}
    record = _SplitRecord(**own, splits=splits, sizes_sha256=_sizes_sha256(images))
    write_record(Path(folder) / SPLIT_FILE, "split", record.as_record())


def read_split(folder: Path, root: Path | None = None) -> ImageSet:
    """Read what ``write_split`` wrote; ``root`` is where the images lie now, if not where they lay then.

    Raises:
        RecordError: No such record, or its listing does not match its own hash.
        DataError: The images' folder is gone.
    """
    record = _read(Path(folder) / SPLIT_FILE)
    root = record.root if root is None else Path(root)
    try:
        is_there = root.is_dir()
    except OSError:  # such a name no folder has
        is_there = False
    if not is_there:
        raise DataError(f"the run's images were in {root}, which is gone; give `data=FOLDER` too, where they are now")
    splits = {
        name: tuple(Sample(root / path, label) for path, label in samples) for name, samples in record.splits.items()
    }
    beside = ("root", "splits", "sha256", "sizes_sha256")
    own = {name: getattr(record, name) for name in _SplitRecord.__slots__ if name not in beside}
    images = ImageSet(root=root, splits=splits, **own)
    if images.sha256 != record.sha256:
        raise RecordError(f"{Path(folder) / SPLIT_FILE} was changed by hand: its SHA-256 no longer fits")
    return _warned_of_other_files(record, images, folder)


def _read(path: Path) -> _SplitRecord:
    with reading(path):
        return _SplitRecord.from_record(read_record(path, "split"))


def inherit_split(folder: Path, images: ImageSet) -> ImageSet:
    """Hold a run to its split: write it if the run has none, refuse ``images`` if it has another.

    Raises:
        DataError: The run was made with other images, classes, or another division of them.
    """
    path = Path(folder) / SPLIT_FILE
    if not path.exists():
        write_split(folder, images)
        return images
    there = _read(path)
    if there.sha256 != images.sha256:
        raise DataError(
            f"{folder} was made with {there.name} ({_sizes(there.splits)}, seed {there.seed}), but "
            f"{images.name} ({_sizes(images.splits)}, seed {images.seed}) is given; figures of two divisions "
            "cannot be compared: use the same data and seed, or another `out`"
        )
    return _warned_of_other_files(there, images, folder)


_LOOKED_AT = 1000
"""Files whose sizes are looked at, spread evenly: enough to know another data set of the same names, and quick."""


def _sizes_sha256(images: ImageSet) -> str:
    """Of the sizes of some files; those that are gone count as nothing."""
    paths = [sample.path for samples in images.splits.values() for sample in samples]
    some = paths[:: -(-len(paths) // _LOOKED_AT)]
    return sha256_text(" ".join(str(path.stat().st_size if path.is_file() else 0) for path in some))


def _warned_of_other_files(record: _SplitRecord, images: ImageSet, folder: Path) -> ImageSet:
    """The images, after a warning where files have the names that the run knows, but not their sizes.

    They may be the same images in another format; or images that the run trained on, in what is now its test split.
    """
    if record.sizes_sha256 and record.sizes_sha256 != _sizes_sha256(images):
        _log.warning(
            "the files in %s have the names, but not the sizes of those that %s was made with: if they are other "
            "images, they may be divided otherwise, and no accuracy on them is a test", images.root, folder,
        )  # fmt: skip
    return images


def _sizes(splits: Mapping[str, Iterable[object]]) -> str:
    return ", ".join(f"{len(list(samples))} {name}" for name, samples in splits.items())

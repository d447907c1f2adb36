"""load_images: the one door to every data set, by folder, CSV list or name; and to the images of an earlier run."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tavt_kit.core.parsing import user_path
from tavt_kit.data.folders import class_folders, load_csv, load_folder
from tavt_kit.data.images import ImageSet, Sample
from tavt_kit.data.look import warn_of_leaks
from tavt_kit.data.packages import PACKAGES, unpack
from tavt_kit.data.published import FACTS, load_layout, named_folder, recognise
from tavt_kit.data.splits import SPLIT_FILE, carve, inherit_split, read_split
from tavt_kit.errors import DataError, RecordError, UnknownName


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A data set that can be had by name: a folder inside a wheel of ``PACKAGES``, and what lists it, once unpacked."""

    package: str
    inside: str
    classes: int
    images: int
    about: str
    note: str
    read: Callable[[Path], tuple[tuple[str, ...], list[Sample]]]


def _read_elpv(root: Path) -> tuple[tuple[str, ...], list[Sample]]:
    """Cell type and annotated defect probability: ``"mono 0.33"``."""
    rows = []
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, probability, kind = line.split()
        rows.append((root / path, f"{kind} {float(probability):.2f}"))
    classes = tuple(sorted({name for _, name in rows}))
    return classes, [Sample(path, classes.index(name)) for path, name in rows]


KNOWN = MappingProxyType({
    "elpv": KnownSet(
        "elpv", "elpv_dataset/data", 8, 2624,
        "solar cells, mono- or polycrystalline, by annotated defect probability (0, 1/3, 2/3, 1)",
        "The split is random, so cells of one solar module can be in train and in test; results on modules never "
        "seen may be lower.",
        _read_elpv,
    ),
    "textile": KnownSet(
        "textile", "conformal_clip_data/data/textile_images/simulated", 3, 2000,
        "woven fabric: nominal, local defect, global defect",
        "These are simulated images, not photographs.",
        class_folders,
    ),
})  # fmt: skip
"""Data sets by name."""

_TIMM = "timm:"
"""What timm.data reads, by the place that follows."""


def load_images(spec: str, *, seed: int = 0) -> ImageSet:
    """Find images and labels.

    Args:
        spec: A folder, a ``.csv`` list, ``"elpv"`` or ``"textile"``, or ``NAME:FOLDER`` of a data set in its
            published layout, such as ``"cub:/data/CUB_200_2011"`` (see ``published.FACTS``); the folder alone will do
            where its files are unmistakable; ``timm:PLACE`` is read as timm does (see ``timm_data``).
        seed: Seed of a split that we make, 60/20/20; nothing else is random.

    Raises:
        DataError: The data is missing, empty, contradictory or unreadable.
        UnknownName: ``spec`` is neither a path nor a known name.
    """
    return warn_of_leaks(_loaded(spec, seed))


def _loaded(spec: str, seed: int) -> ImageSet:
    if known := KNOWN.get(spec):
        root = unpack(known.package, known.inside)
        classes, samples = known.read(root)
        if (len(classes), len(samples)) != (known.classes, known.images):
            raise DataError(
                f"{root} should hold {known.images} images of {known.classes} classes, but holds "
                f"{len(samples)} of {len(classes)}; remove the folder and run again"
            )
        licence, divided = PACKAGES[known.package].licence, carve({"train": samples}, root, seed=seed)
        return ImageSet(spec, classes, root, **divided, licence=licence, note=known.note)
    if not spec.strip():
        raise DataError("data must be a folder, a CSV list or a name, but nothing was given")
    if spec.startswith(_TIMM):
        from tavt_kit.data.timm_data import load_timm  # timm, and torch with it, only where it is asked for

        return load_timm(spec.removeprefix(_TIMM), spec, seed=seed)
    if named := named_folder(spec):
        return load_layout(*named, seed=seed)
    path = user_path(spec)
    if path.suffix.lower() == ".csv":
        return load_csv(path, seed=seed)
    if path.is_file():
        raise DataError(f"data must be a folder of images or a .csv list, but {path} is a file of another kind")
    before, colon, folder = spec.partition(":")
    if not path.exists() and not any(mark in before for mark in "/\\.") and not (colon and len(before) == 1):
        if facts := FACTS.get(spec.lower()):
            raise DataError(f"{facts.title} is not fetched by this kit; give its folder as {spec.lower()}:FOLDER")
        near = difflib.get_close_matches(before.lower(), [*KNOWN, *FACTS], n=1)
        meant = f"; did you mean {near[0] + colon + folder!r}?" if near else ""
        raise UnknownName(
            f"data must be a folder, a CSV list, NAME:FOLDER or one of {', '.join(KNOWN)}, got {spec!r}{meant}"
        )
    if layout := recognise(path):
        return load_layout(layout, path, seed=seed)
    return load_folder(path, seed=seed)


def inherited_images(folder: Path, data: str | None) -> ImageSet:
    """The images and the split that a run was made with; ``data`` may say where they were moved to.

    Raises:
        RecordError: The run has no split, and no data is given.
        DataError: ``data`` is another data set, or the run's images are gone.
    """
    if not (Path(folder) / SPLIT_FILE).exists():
        if data is None:
            raise RecordError(f"{folder} does not say on which data it was made; give `data=FOLDER` too, its images")
        return load_images(data)
    try:
        known = read_split(folder)
    except DataError:
        if data is None:
            raise
        return read_split(folder, load_images(data).root)
    if data is not None:
        inherit_split(folder, load_images(data, seed=known.seed or 0))
    return known

"""Data sets in the layouts they are published in: read, checked against the disk, and given a val split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tavt_kit.data.birds import read_cub, read_nabirds
from tavt_kit.data.cifar import read_cifar10, read_cifar100
from tavt_kit.data.facts import FACTS, canonical
from tavt_kit.data.images import ImageSet, Sample
from tavt_kit.data.label_lists import read_label_lists
from tavt_kit.data.large import read_imagenet, read_inat2017
from tavt_kit.data.listing import Listing, absent_images
from tavt_kit.data.oxford import read_aircraft, read_flowers, read_pets
from tavt_kit.data.splits import Ratios, divide
from tavt_kit.data.stanford import read_cars, read_dogs
from tavt_kit.errors import DataError, UnknownName


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a data set lies on the disk.

    Args:
        read: Lists it.
        inside: Folders below the one given where it may lie instead, tried in order.
        marks: Files that all together are in no other data set's folder; none where nothing is unmistakable.
        begins: A path by which one of ``inside`` is chosen.
    """

    read: Callable[[Path], Listing]
    inside: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()


_IDS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
_LISTS = _Layout(read_label_lists)
_LAYOUTS: Mapping[str, _Layout] = MappingProxyType(
    {name: _LISTS for name in FACTS}
    | {
        # NABirds has all of CUB's files and one more, so it is looked for first.
        "nabirds": _Layout(read_nabirds, ("nabirds",), (*_IDS, "hierarchy.txt"), _IDS[:1]),
        "cub": _Layout(read_cub, ("CUB_200_2011", "CUB"), _IDS, _IDS[:1]),
        "cars": _Layout(read_cars, ("car",), ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat"), ("devkit",)),
        "dogs": _Layout(read_dogs, ("dog",), ("train_list.mat", "test_list.mat"), ("train_list.mat",)),
        "aircraft": _Layout(read_aircraft, ("data",), ("variants.txt", "images_variant_train.txt"), ("images",)),
        "flowers": _Layout(read_flowers, (), ("imagelabels.mat", "setid.mat")),
        "pets": _Layout(read_pets, (), ("annotations/trainval.txt", "annotations/test.txt")),
        "cifar10": _Layout(read_cifar10, ("cifar-10-batches-bin",), ("batches.meta.txt", "test_batch.bin")),
        "cifar100": _Layout(read_cifar100, ("cifar-100-binary",), ("fine_label_names.txt", "train.bin")),
        "inat2017": _Layout(read_inat2017, ("INat2017",), ("train2017.json", "val2017.json")),
        "imagenet": _Layout(read_imagenet),
    }
)


def named_folder(text: str) -> tuple[str, Path] | None:
    """``"cub:/data/CUB_200_2011"`` as its name and folder; None if it begins with no known name.

    Raises:
        DataError: The folder is left out.
    """
    before, colon, folder = text.partition(":")
    name = canonical(before) if colon else None
    if name is None:
        return None
    if not folder.strip():
        raise DataError(f"{text!r} must be NAME:FOLDER; say where {FACTS[name].title} lies")
    return name, Path(folder.strip()).expanduser()


def recognise(folder: Path) -> str | None:
    """The data set whose files lie in ``folder``, where they are unmistakable, else None."""
    order = ("nabirds", *(name for name in _LAYOUTS if name != "nabirds"))
    for name in order:
        layout = _LAYOUTS[name]
        places = (folder, *(folder / inside for inside in layout.inside))
        if layout.marks and any(all((place / mark).is_file() for mark in layout.marks) for place in places):
            return name
    return None


def read_listing(name: str, folder: Path) -> Listing:
    """List a data set as published; the images need not be there.

    Args:
        name: In ``facts.FACTS``, or another name it goes by.
        folder: The data set's own folder, or the one its archive was unpacked in.

    Raises:
        UnknownName: No such data set.
        DataError: An annotation file is missing, damaged or contradictory.
    """
    found = canonical(name)
    if found is None:
        raise UnknownName(f"the data sets with a known layout are {', '.join(FACTS)}, got {name!r}")
    return _LAYOUTS[found].read(_root(_LAYOUTS[found], folder))


def load_layout(name: str, folder: Path, *, seed: int = 0, ratios: Ratios | None = None) -> ImageSet:
    """Read a data set, with the published parts; where no val is published, one is carved out of train.

    Args:
        name: As ``read_listing``.
        folder: As ``read_listing``.
        seed: Of the carved val.
        ratios: Shares of train and val in it; the data set's own by default (``Facts.held_for_val``).

    Raises:
        UnknownName: No such data set.
        DataError: As ``read_listing``, or a listed image is absent.
    """
    listing = read_listing(name, folder)
    name = canonical(name) or name
    facts, root = FACTS[name], _root(_LAYOUTS[name], folder).absolute()
    everything = [sample for samples in listing.parts.values() for sample in samples]
    if absent := absent_images(everything):
        raise DataError(
            f"every listed image must be there, but {len(absent)} of the {len(everything)} of {facts.title} are "
            f"absent, for example {absent[0]}; unpack it again"
        )
    parts: dict[str, tuple[Sample, ...]] = {
        part: tuple(Sample(sample.path.absolute(), sample.label) for sample in samples)
        for part, samples in listing.parts.items()
    }
    rest = (facts.as_licence(), facts.note, listing.hierarchy)
    if "val" in parts:
        return ImageSet(name, listing.classes, root, parts, "as published", None, *rest)
    shares = ratios.without_test() if ratios else Ratios(1 - facts.held_for_val, facts.held_for_val, 0.0)
    parts |= divide(parts["train"], root, seed=seed, ratios=shares)
    made = f"published train and test; val taken from train, random, stratified by class, {shares}"
    return ImageSet(name, listing.classes, root, parts, made, seed, *rest)


def _root(layout: _Layout, folder: Path) -> Path:
    """Where the files lie: ``folder``, or one known folder below it.

    Raises:
        DataError: There is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"the data set's folder {folder} does not exist; give the folder its archive was unpacked in")
    marks = layout.begins or layout.marks[:1]
    if any((folder / mark).exists() for mark in marks):
        return folder
    inside = (folder / name for name in layout.inside)
    return next((place for place in inside if place.is_dir()), folder)

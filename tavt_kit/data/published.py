"""Data sets as they are published: what is known of them, how their annotation files are read, and their val split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tavt_kit.core.model_card import Licence
from tavt_kit.core.parsing import parse_json, user_path
from tavt_kit.data.folders import class_folders
from tavt_kit.data.images import ImageSet, Sample
from tavt_kit.data.matlab import read_variable
from tavt_kit.data.splits import carve
from tavt_kit.errors import DataError

_Key = TypeVar("_Key", str, int)


Listing = tuple[tuple[str, ...], Mapping[str, Sequence[Sample]]]
"""The classes and parts of a data set as published, before anything is carved or checked on the disk."""


@contextmanager
def _annotations(file: Path, fault: str) -> Iterator[None]:
    """What goes wrong while an annotation file is read, as a DataError that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"the annotation file {file} is missing; unpack the data set's archive again and keep its folders"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"the annotation file {file} {fault} ({error}); download it again") from None


def read_lines(file: Path) -> list[str]:
    """The lines that are not blank; DataError where the file is missing or is not text."""
    with _annotations(file, "cannot be read"):
        text = file.read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_pairs(file: Path) -> dict[str, str]:
    """Lines ``id value``, the value may have spaces; DataError where one has no value, or an id stands twice."""
    pairs: dict[str, str] = {}
    for line in read_lines(file):
        key, _, value = line.partition(" ")
        if not value.strip():
            raise DataError(f"every line of {file} must be 'id value', got {line!r}; unpack the archive again")
        if key in pairs:
            raise DataError(f"every id must stand once in {file}, but {key!r} stands twice; unpack the archive again")
        pairs[key] = value.strip()
    return pairs


def read_mat(file: Path, name: str) -> list[Any]:
    """The items of one variable of a MATLAB file, as ``read_variable`` gives them; DataError where there is none."""
    with _annotations(file, "cannot be read as a MATLAB file"):
        items = read_variable(file.read_bytes(), name)
    if items is None:
        raise DataError(f"{file} must hold the variable {name!r}, but does not; download it again")
    return items


def numbered(labels: Any, classes: int, file: Path) -> list[int]:
    """Labels in 1..classes as indices from 0."""
    try:
        numbers = [int(label) - 1 for label in labels]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"the labels in {file} must be numbers from 1 to {classes}; download it again") from None
    for label in numbers:
        if not 0 <= label < classes:
            raise DataError(f"the labels in {file} must be 1 to {classes}, got {label + 1}; download it again")
    return numbers


def unique_names(names: Mapping[_Key, str]) -> dict[_Key, str]:
    """Of ids, names that differ: a name that two ids share gets its id behind it."""
    count = Counter(names.values())
    return {key: f"{name} ({key})" if count[name] > 1 else name for key, name in names.items()}


def absent_images(samples: Iterable[Sample]) -> list[Path]:
    """The listed images that are not on the disk, in order; each folder is listed once, no image is opened."""

    @cache
    def names(folder: Path) -> frozenset[str]:
        return frozenset(entry.name for entry in os.scandir(folder)) if folder.is_dir() else frozenset()

    return [sample.path for sample in samples if sample.path.name not in names(sample.path.parent)]


def _listing(names: Mapping[Any, str], parts: Mapping[str, Iterable[tuple[Path, Any]]]) -> Listing:
    """A listing of images with the keys of their classes, which are numbered in the order of ``names``."""
    labels = {key: label for label, key in enumerate(names)}
    samples = {part: tuple(Sample(path, labels[key]) for path, key in rows) for part, rows in parts.items()}
    return tuple(names.values()), samples


def read_label_lists(root: Path, lists: str = "anno") -> Listing:
    """Read ``anno/train.txt`` and ``anno/test.txt`` of ``file label``: the leaves, AFD, WRD, BTF, home-made folders.

    The files they name lie in ``images/``. A label is the last word of its line, so that file names may have spaces.
    Labels count from 1; a class is called by its number. ``lists`` is ``""`` where the lists lie beside ``images/``.
    """
    rows: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for part, images in rows.items():
        file = root / lists / f"{part}.txt"
        for line in read_lines(file):
            name, _, label = line.rpartition(" ")
            if not name.strip() or not label.isdigit() or int(label) < 1:
                raise DataError(f"every line of {file} must be 'file label', the label from 1, got {line!r}; repair it")
            images.append((root / "images" / name.strip(), int(label)))
    numbers = sorted({number for images in rows.values() for _, number in images})
    return _listing({number: str(number) for number in numbers}, rows)


def read_cub(root: Path) -> Listing:
    """Read ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and ``classes.txt``.

    A folder with ``anno/train.txt`` and ``anno/test.txt`` instead (as Mix-ViT wants it) is read as such.
    """
    if not (root / "images.txt").exists() and (root / "anno" / "train.txt").exists():
        return read_label_lists(root)
    names = read_pairs(root / "classes.txt")
    return _read_ids(root, {key: names[key] for key in sorted(names, key=_number)})


def read_nabirds(root: Path) -> Listing:
    """Read NABirds: of 1,011 nodes the 555 that have images are the classes, in the order of their ids."""
    names = read_pairs(root / "classes.txt")
    used = sorted(set(read_pairs(root / "image_class_labels.txt").values()), key=_number)
    if unknown := [key for key in used if key not in names]:
        raise DataError(f"{root / 'classes.txt'} does not name class {unknown[0]}; unpack the archive again")
    return _read_ids(root, unique_names({key: names[key] for key in used}))


def _read_ids(root: Path, names: dict[str, str]) -> Listing:
    """Text files that give each image's id a path, a class and a part."""
    classes, training = read_pairs(root / "image_class_labels.txt"), read_pairs(root / "train_test_split.txt")
    parts: dict[str, list[tuple[Path, str]]] = {"train": [], "test": []}
    for key, path in read_pairs(root / "images.txt").items():
        kind, part = classes.get(key, ""), {"1": "train", "0": "test"}.get(training.get(key, ""))
        if kind not in names or part is None:
            raise DataError(
                f"image {key!r} of {root / 'images.txt'} needs a known class in image_class_labels.txt and 0 or 1 in "
                "train_test_split.txt; unpack the archive again"
            )
        parts[part].append((root / "images" / path, kind))
    return _listing(names, parts)


def _number(key: str) -> tuple[int, str]:
    return (int(key), key) if key.isdigit() else (-1, key)


_WITH_LABELS = "cars_test_annos_withlabels.mat"


def read_cars(root: Path) -> Listing:
    """Read ``devkit/cars_meta.mat`` and the two lists of annotations.

    The test labels are a download of their own; they are looked for in ``devkit/`` and beside it.
    """
    classes = dict(enumerate(str(name) for name in read_mat(root / "devkit" / "cars_meta.mat", "class_names")))
    test = next((file for folder in (root / "devkit", root) if (file := folder / _WITH_LABELS).is_file()), None)
    if test is None:
        raise DataError(
            f"the test labels of Stanford Cars, {_WITH_LABELS}, are missing; download this file too and put it into "
            f"{root / 'devkit'}"
        )
    parts = {}
    for part, file in (("train", root / "devkit" / "cars_train_annos.mat"), ("test", test)):
        rows = read_mat(file, "annotations")
        for field in ("class", "fname"):
            if not all(isinstance(row, dict) and field in row for row in rows):
                raise DataError(f"the annotations in {file} must have the field {field!r}; download it again")
        paths = [root / f"cars_{part}" / str(row["fname"]) for row in rows]
        parts[part] = list(zip(paths, numbered([row["class"] for row in rows], len(classes), file), strict=True))
    return _listing(classes, parts)


def read_dogs(root: Path) -> Listing:
    """Read ``train_list.mat`` and ``test_list.mat``; the images lie in ``Images/``, a folder for each breed."""
    breeds: dict[int, str] = {}
    parts: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for part, rows in parts.items():
        file = root / f"{part}_list.mat"
        names = read_mat(file, "annotation_list")
        labels = numbered(read_mat(file, "labels"), 10**6, file)
        if len(names) != len(labels):
            raise DataError(f"{file} lists {len(names)} images but {len(labels)} labels; download it again")
        for name, label in zip(map(str, names), labels, strict=True):
            breed = name.split("/")[0]
            if breeds.setdefault(label, breed) != breed:
                raise DataError(
                    f"a label must mean one breed, but in {file} {label + 1} means {breeds[label]} and {breed}; "
                    "download it again"
                )
            rows.append((root / "Images" / f"{name}.jpg", label))
    return _listing({number: breeds[number] for number in sorted(breeds)}, parts)


def read_aircraft(root: Path) -> Listing:
    """Read ``variants.txt`` and ``images_variant_{train,val,test}.txt`` in ``data/``.

    A folder with home-made ``train.txt`` and ``test.txt`` (``file label``) instead, as TransFG wants it, is read too.
    """
    if not (root / "variants.txt").exists() and (root / "train.txt").exists():
        return read_label_lists(root, "")
    classes = {name: name for name in read_lines(root / "variants.txt")}
    parts = {}
    for part in ("train", "val", "test"):
        file = root / f"images_variant_{part}.txt"
        rows = read_pairs(file)
        if unknown := sorted(set(rows.values()) - set(classes)):
            raise DataError(f"{file} names the variant {unknown[0]!r}, which {root / 'variants.txt'} does not list")
        parts[part] = [(root / "images" / f"{key}.jpg", name) for key, name in rows.items()]
    return _listing(classes, parts)


def read_imagenet(root: Path) -> Listing:
    """Read ``train/`` and ``val/``, folders of class folders named by WordNet ids; val is our test, as in papers."""
    classes, train = class_folders(root / "train")
    _, val = class_folders(root / "val", classes)
    return classes, {"train": train, "test": val}


def read_inat2017(root: Path) -> Listing:
    """Read ``train2017.json`` and ``val2017.json`` (our test); an image meets its label by id, not by position."""
    files = {"train": root / "train2017.json", "test": root / "val2017.json"}
    bodies: dict[str, dict[str, Any]] = {}
    for part, file in files.items():
        with _annotations(file, "is not a JSON file"):
            bodies[part] = parse_json(file.read_text(encoding="utf-8"))
        if not isinstance(bodies[part], dict):
            raise DataError(f"{file} must be a JSON object with images and annotations; download it again")
    try:
        kinds = {int(each["id"]): each for each in bodies["train"]["categories"]}
        names = unique_names({number: str(kinds[number]["name"]) for number in sorted(kinds)})
        return _listing(names, {part: _coco_rows(files[part], body) for part, body in bodies.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the JSON files in {root} lack what iNaturalist 2017's have ({error!r}); get them again"
        ) from None


def _coco_rows(file: Path, body: dict[str, Any]) -> list[tuple[Path, int]]:
    labels: dict[int, int] = {}
    for each in body["annotations"]:
        if each["image_id"] in labels:
            raise DataError(f"every image must have one label, but {each['image_id']} has two in {file}")
        labels[each["image_id"]] = each["category_id"]
    rows: dict[int, tuple[Path, int]] = {}
    for each in body["images"]:
        if each["id"] in rows:
            raise DataError(f"every id must stand once in {file}, but {each['id']} stands twice; download it again")
        if each["id"] not in labels:
            raise DataError(f"every image must have a label, but {each['id']} has none in {file}; download it again")
        rows[each["id"]] = (file.parent / str(each["file_name"]), labels[each["id"]])
    return list(rows.values())


@dataclass(frozen=True, slots=True)
class Facts:
    """One data set.

    Args:
        sizes: Images of the published parts; empty where no figure is known.
        licence: In a few words; ``"unknown"`` where we found none stated on its page or in its paper, the ``source``.
        held_for_val: Share of each class's training images that becomes val, where no val is published.
        read: Lists what lies in its folder; raises DataError where files are missing, damaged or contradictory.
        inside: Folders below the one given where it may lie instead, tried in order.
        marks: Files that all together are in no other data set's folder; none where nothing is unmistakable.
    """

    title: str
    classes: int
    sizes: Mapping[str, int]
    licence: str
    source: str
    held_for_val: float = 0.1
    note: str = ""
    read: Callable[[Path], Listing] = read_label_lists
    inside: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    def as_licence(self) -> Licence:
        """As run folders and exported files carry it."""
        return Licence(self.title, self.licence, self.source)


_IDS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
_RESEARCH = "non-commercial research and education only; see its page"
_UNSTATED = "unknown; ask its authors"
_THREE = 1 / 3
"""With three images a class one is val, two are train."""


def _lists(title: str, classes: int, share: float, *sizes: int) -> Facts:
    """An ultra-fine-grained set, in the layout of ``read_label_lists``."""
    source = "Yu et al., ICCV 2021; github.com/XiaohanYu-GU/Ultra-FGVC"
    return Facts(title, classes, dict(zip(("train", "test"), sizes, strict=True)), _UNSTATED, source, share)


def _unsized(title: str, classes: int) -> Facts:
    return Facts(title, classes, {}, _UNSTATED, "the list layout of Mix-ViT's loaders")


_VAL_AS_TEST = "The published val is used as test; val is taken from train."

FACTS = MappingProxyType(
    {
        "cub": Facts(
            "CUB-200-2011", 200, {"train": 5994, "test": 5794}, _RESEARCH,
            "Wah et al., 2011; vision.caltech.edu/datasets/cub_200_2011",
            read=read_cub, inside=("CUB_200_2011", "CUB"), marks=_IDS,
        ),
        "cars": Facts(
            "Stanford Cars", 196, {"train": 8144, "test": 8041}, _RESEARCH, "Krause et al., 2013",
            read=read_cars, inside=("car",), marks=("devkit/cars_train_annos.mat", "devkit/cars_meta.mat"),
        ),
        "dogs": Facts(
            "Stanford Dogs", 120, {"train": 12000, "test": 8580}, "unknown; the images are ImageNet's",
            "Khosla et al., 2011; vision.stanford.edu/aditya86/ImageNetDogs",
            note="The images are ImageNet's: weights pretrained there may have seen the test images.",
            read=read_dogs, inside=("dog",), marks=("train_list.mat", "test_list.mat"),
        ),
        "nabirds": Facts(
            "NABirds", 555, {"train": 23929, "test": 24633}, _RESEARCH,
            "Van Horn et al., CVPR 2015; dl.allaboutbirds.org/nabirds",
            read=read_nabirds, inside=("nabirds",), marks=(*_IDS, "hierarchy.txt"),
        ),
        "aircraft": Facts(
            "FGVC-Aircraft", 100, {"train": 3334, "val": 3333, "test": 3333}, "non-commercial research only",
            "Maji et al., 2013; robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
            read=read_aircraft, inside=("data",), marks=("variants.txt", "images_variant_train.txt"),
        ),
        "inat2017": Facts(
            "iNaturalist 2017", 5089, {"train": 579184, "test": 95986}, _RESEARCH,
            "Van Horn et al., CVPR 2018; github.com/visipedia/inat_comp", 0.05, _VAL_AS_TEST,
            read=read_inat2017, inside=("INat2017",), marks=("train2017.json", "val2017.json"),
        ),
        "imagenet": Facts(
            "ImageNet (ILSVRC 2012)", 1000, {"train": 1281167, "test": 50000}, _RESEARCH,
            "Russakovsky et al., 2015; image-net.org", 0.02, _VAL_AS_TEST, read=read_imagenet,
        ),
        "cotton80": _lists("Cotton80", 80, _THREE, 240, 240),
        "soylocal": _lists("SoyLocal", 200, _THREE, 600, 600),
        "soygene": _lists("SoyGene", 1110, 0.1, 12763, 11143),
        "soyglobal": _lists("SoyGlobal", 1938, _THREE, 5814, 5814),
        **{f"soyageing-r{part}": _lists(f"SoyAgeing R{part}", 198, 0.2, 990, 990) for part in (1, 3, 4, 5, 6)},
        "afd": _unsized("AFD", 4),
        "wrd": _unsized("WRD", 3),
        "btf": _unsized("BTF", 10),
    }
)  # fmt: skip
"""Data sets by the name the command line uses."""


def named_folder(text: str) -> tuple[str, Path] | None:
    """``"cub:/data/CUB_200_2011"`` as its name and folder; None if it begins with no known name."""
    before, colon, folder = text.partition(":")
    name = before.strip().lower()
    if not colon or name not in FACTS:
        return None
    if not folder.strip():
        raise DataError(f"{text!r} must be NAME:FOLDER; say where {FACTS[name].title} lies")
    return name, user_path(folder.strip())


def recognise(folder: Path) -> str | None:
    """The data set whose files lie in ``folder``, where they are unmistakable, else None."""
    # NABirds has all of CUB's files and one more, so those of most marks are looked for first.
    for name, facts in sorted(FACTS.items(), key=lambda item: -len(item[1].marks)):
        roots = (folder, *(folder / inside for inside in facts.inside))
        if facts.marks and any(all((root / mark).is_file() for mark in facts.marks) for root in roots):
            return name
    return None


def load_layout(name: str, folder: Path, *, seed: int = 0) -> ImageSet:
    """Read a data set, with the published parts; where no val is published, one is carved out of train.

    The folder is the data set's own, or the one its archive was unpacked in; val's share is ``Facts.held_for_val``.

    Raises:
        DataError: An annotation file is missing, damaged or contradictory, or a listed image is absent.
    """
    facts = FACTS[name]
    if not folder.is_dir():
        raise DataError(f"the data set's folder {folder} does not exist; give the folder its archive was unpacked in")
    root = folder.absolute()
    if not any((root / mark).exists() for mark in facts.marks[:1]):
        root = next((place for inside in facts.inside if (place := root / inside).is_dir()), root)
    classes, parts = facts.read(root)
    everything = [sample for samples in parts.values() for sample in samples]
    if absent := absent_images(everything):
        raise DataError(
            f"every listed image must be there, but {len(absent)} of the {len(everything)} of {facts.title} are "
            f"absent, for example {absent[0]}; unpack it again"
        )
    carved = carve(parts, root, seed=seed, val=facts.held_for_val)
    carved["made"] = "as published" if "val" in parts else f"published train and test; {carved['made']}"
    return ImageSet(name, classes, root, **carved, licence=facts.as_licence(), note=facts.note)

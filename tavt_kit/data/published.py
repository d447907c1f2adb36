"""Data sets as they are published: what is known of them, how their annotation files are read, and their val split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tavt_kit.core.model_card import Licence
from tavt_kit.core.parsing import parse_json
from tavt_kit.data.folders import class_folders
from tavt_kit.data.images import ImageSet, Sample
from tavt_kit.data.preprocess import PIXELS
from tavt_kit.data.splits import Ratios, carve
from tavt_kit.errors import DataError, UnknownName


@dataclass(frozen=True, slots=True)
class Facts:
    """One data set.

    Args:
        title: For people.
        classes: How many.
        sizes: Images of the published parts; empty where no figure is known.
        licence: In a few words; ``"unknown"`` where we found none stated.
        source: Its page or paper.
        layout: What must lie in the folder.
        trap: What goes wrong most easily.
        held_for_val: Share of each class's training images that becomes val, where no val is published.
        note: What must be said of results on it, or nothing.
        aliases: Other names it goes by.
    """

    title: str
    classes: int
    sizes: Mapping[str, int]
    licence: str
    source: str
    layout: str
    trap: str
    held_for_val: float = 0.1
    note: str = ""
    aliases: tuple[str, ...] = ()

    def as_licence(self) -> Licence:
        """As run folders and exported files carry it."""
        return Licence(self.title, self.licence, self.source)


_RESEARCH = "non-commercial research and education only; see its page"
_UNSTATED = "unknown; ask its authors"
_LISTS = "anno/train.txt, anno/test.txt ('file label'), images/"
_THREE = 1 / 3
"""With three images a class one is val, two are train."""


def _leaves(title: str, classes: int, each: tuple[int, int], share: float, *aliases: str) -> Facts:
    sizes = {"train": each[0], "test": each[1]}
    trap = "three training images a class: one becomes val" if share == _THREE else "labels count from 1"
    source = "Yu et al., ICCV 2021; github.com/XiaohanYu-GU/Ultra-FGVC"
    return Facts(title, classes, sizes, _UNSTATED, source, _LISTS, trap, share, aliases=aliases)


def _unsized(title: str, classes: int) -> Facts:
    trap = "no published sizes are known here"
    return Facts(title, classes, {}, _UNSTATED, "the list layout of Mix-ViT's loaders", _LISTS, trap)


_AGEING = {
    f"soyageing-{part}": _leaves(
        f"SoyAgeing {part.upper()}", 198, (990, 990), 0.2, f"soybean_aging_{part}", f"soyaging-{part}"
    )
    for part in ("r1", "r3", "r4", "r5", "r6")
}
_VAL_AS_TEST = "The published val is used as test; val is taken from train."

FACTS = MappingProxyType(
    {
        "cub": Facts(
            "CUB-200-2011", 200, {"train": 5994, "test": 5794}, _RESEARCH,
            "Wah et al., 2011; vision.caltech.edu/datasets/cub_200_2011",
            "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, images/; or anno/ lists",
            "some images are also in ImageNet's training set", aliases=("cub200", "cub_200_2011", "cub-200-2011"),
        ),
        "cars": Facts(
            "Stanford Cars", 196, {"train": 8144, "test": 8041}, _RESEARCH,
            "Krause et al., 2013",
            "devkit/cars_meta.mat, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat (there or in devkit/), "
            "cars_train/, cars_test/",
            "the test labels are a download of their own", aliases=("stanford-cars", "car"),
        ),
        "dogs": Facts(
            "Stanford Dogs", 120, {"train": 12000, "test": 8580}, "unknown; the images are ImageNet's",
            "Khosla et al., 2011; vision.stanford.edu/aditya86/ImageNetDogs",
            "train_list.mat, test_list.mat, Images/",
            "its images are in ImageNet, so weights pretrained there have seen the test",
            aliases=("stanford-dogs", "dog"),
            note="The images are ImageNet's: weights pretrained there may have seen the test images.",
        ),
        "nabirds": Facts(
            "NABirds", 555, {"train": 23929, "test": 24633}, _RESEARCH,
            "Van Horn et al., CVPR 2015; dl.allaboutbirds.org/nabirds",
            "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt, hierarchy.txt, images/",
            "1,011 nodes in classes.txt, of which 555 have images",
        ),
        "aircraft": Facts(
            "FGVC-Aircraft", 100, {"train": 3334, "val": 3333, "test": 3333}, "non-commercial research only",
            "Maji et al., 2013; robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
            "data/variants.txt, data/images_variant_{train,val,test}.txt, data/images/; or train.txt, test.txt",
            "papers train on train and val together (6,667); a copyright line is in the lowest 20 rows of each image",
            aliases=("fgvc-aircraft", "air"),
        ),
        "flowers": Facts(
            "Oxford 102 Flowers", 102, {"train": 1020, "val": 1020, "test": 6149}, _UNSTATED,
            "Nilsback and Zisserman, 2008; robots.ox.ac.uk/~vgg/data/flowers/102",
            "imagelabels.mat, setid.mat, jpg/",
            "the test is the largest part; some papers exchange train and test",
            aliases=("flowers102", "oxford-flowers"),
        ),
        "pets": Facts(
            "Oxford-IIIT Pet", 37, {"train": 3680, "test": 3669}, "CC BY-SA 4.0",
            "Parkhi et al., CVPR 2012; robots.ox.ac.uk/~vgg/data/pets",
            "annotations/trainval.txt, annotations/test.txt, images/",
            "images/ holds more images than the lists name", aliases=("oxford-pets", "oxford-iiit-pet"),
        ),
        "cifar10": Facts(
            "CIFAR-10", 10, {"train": 50000, "test": 10000}, _UNSTATED,
            "Krizhevsky, 2009; cs.toronto.edu/~kriz/cifar.html",
            "binary version: data_batch_{1..5}.bin, test_batch.bin, batches.meta.txt",
            "the Python version's pickles are refused", aliases=("cifar-10",),
        ),
        "cifar100": Facts(
            "CIFAR-100", 100, {"train": 50000, "test": 10000}, _UNSTATED,
            "Krizhevsky, 2009; cs.toronto.edu/~kriz/cifar.html",
            "binary version: train.bin, test.bin, fine_label_names.txt",
            "the Python version's pickles are refused; the fine labels are the classes", aliases=("cifar-100",),
        ),
        "inat2017": Facts(
            "iNaturalist 2017", 5089, {"train": 579184, "test": 95986}, _RESEARCH,
            "Van Horn et al., CVPR 2018; github.com/visipedia/inat_comp",
            "train2017.json, val2017.json, train_val_images/",
            "the test labels are not published: the published val is our test", 0.05, _VAL_AS_TEST,
            ("inaturalist2017",),
        ),
        "imagenet": Facts(
            "ImageNet (ILSVRC 2012)", 1000, {"train": 1281167, "test": 50000}, _RESEARCH,
            "Russakovsky et al., 2015; image-net.org",
            "train/{wnid}/, val/{wnid}/",
            "val comes as one flat folder and must be sorted into class folders first", 0.02, _VAL_AS_TEST,
            ("ilsvrc2012", "imagenet1k"),
        ),
        "cotton80": _leaves("Cotton80", 80, (240, 240), _THREE, "cotton"),
        "soylocal": _leaves("SoyLocal", 200, (600, 600), _THREE, "soyloc", "soybean200"),
        "soygene": _leaves("SoyGene", 1110, (12763, 11143), 0.1, "soybean_gene"),
        "soyglobal": _leaves("SoyGlobal", 1938, (5814, 5814), _THREE, "soybean2000"),
        **_AGEING,
        "afd": _unsized("AFD", 4),
        "wrd": _unsized("WRD", 3),
        "btf": _unsized("BTF", 10),
    }
)  # fmt: skip
"""Data sets by the name the command line uses."""

_ALIASES = MappingProxyType({alias: name for name, facts in FACTS.items() for alias in facts.aliases})


def canonical(name: str) -> str | None:
    """The table's name of a data set, whatever its case and spelling; None if it is not there."""
    name = name.strip().lower()
    name = _ALIASES.get(name, name)
    return name if name in FACTS else None


@dataclass(frozen=True, slots=True)
class Listing:
    """A data set as published, before anything is carved or checked on the disk.

    Args:
        classes: Names, in the order of the data set's own labels.
        parts: ``"train"``, ``"test"`` and, where one is published, ``"val"``.
        hierarchy: Of a class, the names of its ancestors, the nearest first; empty where none is published.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, tuple[Sample, ...]]
    hierarchy: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_lines(file: Path) -> list[str]:
    """The lines that are not blank, with or without a newline after the last.

    Raises:
        DataError: The file is missing or is not text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"the annotation file {file} is missing; unpack the data set's archive again and keep its folders"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the annotation file {file} cannot be read: {error}") from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_pairs(file: Path) -> dict[str, str]:
    """Lines ``id value``, the value may have spaces.

    Raises:
        DataError: The file is missing, a line has no value, or an id stands twice.
    """
    pairs: dict[str, str] = {}
    for line in read_lines(file):
        key, _, value = line.partition(" ")
        if not value.strip():
            raise DataError(f"every line of {file} must be 'id value', got {line!r}; unpack the archive again")
        if key in pairs:
            raise DataError(f"every id must stand once in {file}, but {key!r} stands twice; unpack the archive again")
        pairs[key] = value.strip()
    return pairs


def read_mat(file: Path, name: str) -> Any:
    """One variable of a MATLAB file, without its axes of length 1; at least 1-D.

    Raises:
        DataError: The file is missing, is damaged, or has no such variable.
    """
    import numpy as np
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(
            f"the annotation file {file} is missing; unpack the data set's archive again and keep its folders"
        )
    try:
        found = loadmat(str(file), squeeze_me=True, variable_names=[name])
    except Exception as error:  # scipy raises anything from ValueError to zlib.error on a damaged file
        raise DataError(f"{file} cannot be read as a MATLAB file ({error}); download it again") from None
    if name not in found:
        raise DataError(f"{file} must hold the variable {name!r}, but does not; download it again")
    return np.atleast_1d(found[name])


def numbered(labels: Any, classes: int, file: Path) -> list[int]:
    """Labels that count from 1, as indices from 0; MATLAB's uint8 becomes Python's int before the 1 is taken off.

    Raises:
        DataError: A label is not in 1..classes.
    """
    try:
        found = [int(label) - 1 for label in labels]
    except (TypeError, ValueError):
        raise DataError(f"the labels in {file} must be numbers from 1 to {classes}; download it again") from None
    for label in found:
        if not 0 <= label < classes:
            raise DataError(f"the labels in {file} must be 1 to {classes}, got {label + 1}; download it again")
    return found


def unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """Of ids, names that differ: a name that two ids share gets its id behind it."""
    count = Counter(names.values())
    return {key: f"{name} ({key})" if count[name] > 1 else name for key, name in names.items()}


def absent_images(samples: Iterable[Sample]) -> list[Path]:
    """The listed images that are not on the disk, in order; each folder is listed once, no image is opened."""
    known: dict[Path, frozenset[str]] = {}
    missing = []
    for sample in samples:
        folder = sample.path.parent
        if folder not in known:
            known[folder] = frozenset(each.name for each in os.scandir(folder)) if folder.is_dir() else frozenset()
        # An image inside a binary file (CIFAR) has the file as its folder; its reader has checked the size.
        if sample.path.name not in known[folder] and not folder.is_file():
            missing.append(sample.path)
    return missing


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
    rows = {part: _read_list(root / lists / f"{part}.txt") for part in ("train", "test")}
    numbers = sorted({number for part in rows.values() for _, number in part})
    labels = {number: label for label, number in enumerate(numbers)}
    parts = {
        part: tuple(Sample(root / "images" / name, labels[number]) for name, number in found)
        for part, found in rows.items()
    }
    return Listing(tuple(str(number) for number in numbers), parts)


def _read_list(file: Path) -> list[tuple[str, int]]:
    rows = []
    for line in read_lines(file):
        name, _, label = line.rpartition(" ")
        if not name.strip() or not label.isdigit() or int(label) < 1:
            raise DataError(f"every line of {file} must be 'file label', the label from 1, got {line!r}; repair it")
        rows.append((name.strip(), int(label)))
    return rows


def read_cub(root: Path) -> Listing:
    """Read ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and ``classes.txt``.

    A folder with ``anno/train.txt`` and ``anno/test.txt`` instead (as Mix-ViT wants it) is read as such.

    Raises:
        DataError: A file is missing or contradicts another.
    """
    if not (root / "images.txt").exists() and (root / "anno" / "train.txt").exists():
        return read_label_lists(root)
    names = read_pairs(root / "classes.txt")
    return Listing(*_read_ids(root, {key: names[key] for key in sorted(names, key=_number)}))


def read_nabirds(root: Path) -> Listing:
    """Read NABirds: of 1,011 nodes the 555 that have images are the classes, in the order of their ids.

    Raises:
        DataError: A file is missing or contradicts another.
    """
    names = read_pairs(root / "classes.txt")
    used = sorted(set(read_pairs(root / "image_class_labels.txt").values()), key=_number)
    if unknown := [key for key in used if key not in names]:
        raise DataError(f"{root / 'classes.txt'} does not name class {unknown[0]}; unpack the archive again")
    classes, parts = _read_ids(root, unique_names({key: names[key] for key in used}))
    parents = read_pairs(root / "hierarchy.txt")
    ancestors = [tuple(names.get(key, key) for key in _upwards(key, parents)) for key in used]
    return Listing(classes, parts, dict(zip(classes, ancestors, strict=True)))


def _read_ids(root: Path, names: dict[str, str]) -> tuple[tuple[str, ...], dict[str, tuple[Sample, ...]]]:
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


def read_cifar10(root: Path) -> Listing:
    """Read ``data_batch_1.bin`` to ``_5``, ``test_batch.bin`` and ``batches.meta.txt``.

    An image's path is the file and its place in it, ``data_batch_1.bin/00017``.

    Raises:
        DataError: A file is missing or cut off, or this is the Python version, whose pickles are not opened.
    """
    _refuse_pickles(root, "data_batch_1", "cifar-10-binary.tar.gz")
    classes = tuple(read_lines(root / "batches.meta.txt"))
    train = [root / f"data_batch_{i}.bin" for i in range(1, 6)]
    return _listing(classes, train, root / "test_batch.bin", 1)


def read_cifar100(root: Path) -> Listing:
    """Read ``train.bin``, ``test.bin`` and ``fine_label_names.txt``; the fine labels are the classes.

    Raises:
        DataError: As ``read_cifar10``.
    """
    _refuse_pickles(root, "train", "cifar-100-binary.tar.gz")
    return _listing(tuple(read_lines(root / "fine_label_names.txt")), [root / "train.bin"], root / "test.bin", 2)


def _refuse_pickles(root: Path, name: str, archive: str) -> None:
    if (root / name).is_file() and not (root / f"{name}.bin").exists():
        raise DataError(
            f"{root} holds CIFAR's Python version, whose pickles can run code and are not opened; "
            f"download the binary version, {archive}"
        )


def _listing(classes: tuple[str, ...], train: list[Path], test: Path, label_bytes: int) -> Listing:
    parts = {
        "train": tuple(sample for file in train for sample in _records(file, label_bytes, len(classes))),
        "test": tuple(_records(test, label_bytes, len(classes))),
    }
    return Listing(classes, parts)


def _records(file: Path, label_bytes: int, classes: int) -> list[Sample]:
    size = label_bytes + PIXELS
    if not file.is_file():
        raise DataError(f"the file {file} is missing; unpack CIFAR's binary version again")
    data = np.fromfile(file, np.uint8)
    if not len(data) or len(data) % size:
        raise DataError(f"{file} must be whole records of {size} bytes, got {len(data)} bytes; download it again")
    labels = data.reshape(-1, size)[:, label_bytes - 1]
    if labels.max() >= classes:
        raise DataError(f"the labels in {file} must be below {classes}, got {labels.max()}; download it again")
    return [Sample(file / f"{place:05}", int(label)) for place, label in enumerate(labels)]


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


def read_imagenet(root: Path) -> Listing:
    """Read ``train/`` and ``val/``, folders of class folders named by WordNet ids.

    Raises:
        DataError: A folder is missing, or ``val/`` has no class folders.
    """
    classes, train = class_folders(root / "train")
    _, val = class_folders(root / "val", classes)
    return Listing(classes, {"train": tuple(train), "test": tuple(val)})


def read_inat2017(root: Path) -> Listing:
    """Read ``train2017.json`` and ``val2017.json``; an image meets its label by id, not by place.

    Raises:
        DataError: A file is missing or no COCO-like JSON, an id stands twice, or an image has no label.
    """
    rows = {part: _load(root / f"{part}2017.json") for part in ("train", "val")}
    try:
        kinds = {int(each["id"]): each for each in rows["train"]["categories"]}
        numbers = sorted(kinds)
        names = unique_names({str(i): str(kinds[i]["name"]) for i in numbers})
        above = {names[str(i)]: (str(kinds[i]["supercategory"]),) for i in numbers if "supercategory" in kinds[i]}
        labels = {number: label for label, number in enumerate(numbers)}
        parts = {part: _samples(root, root / f"{part}2017.json", body, labels) for part, body in rows.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the JSON files in {root} lack what iNaturalist 2017's have ({error!r}); get them again"
        ) from None
    return Listing(tuple(names.values()), {"train": parts["train"], "test": parts["val"]}, above)


def _load(file: Path) -> dict[str, Any]:
    try:
        body = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"the annotation file {file} is missing; unpack iNaturalist 2017's archives again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a JSON file: {error}; download it again") from None
    if not isinstance(body, dict):
        raise DataError(f"{file} must be a JSON object with images and annotations; download it again")
    return body


def _samples(root: Path, file: Path, body: dict[str, Any], labels: dict[int, int]) -> tuple[Sample, ...]:
    found: dict[int, int] = {}
    for each in body["annotations"]:
        if each["image_id"] in found:
            raise DataError(f"every image must have one label, but {each['image_id']} has two in {file}")
        found[each["image_id"]] = labels[each["category_id"]]
    samples: dict[int, Sample] = {}
    for each in body["images"]:
        if each["id"] in samples:
            raise DataError(f"every id must stand once in {file}, but {each['id']} stands twice; download it again")
        if each["id"] not in found:
            raise DataError(f"every image must have a label, but {each['id']} has none in {file}; download it again")
        samples[each["id"]] = Sample(root / str(each["file_name"]), found[each["id"]])
    return tuple(samples.values())


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
_LIST_LAYOUT = _Layout(read_label_lists)
_LAYOUTS: Mapping[str, _Layout] = MappingProxyType(
    {name: _LIST_LAYOUT for name in FACTS}
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
        name: In ``FACTS``, or another name it goes by.
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
    ratios = ratios or Ratios(1 - facts.held_for_val, facts.held_for_val, 0.0)
    found = carve(parts, root, seed=seed, ratios=ratios)
    found["made"] = "as published" if "val" in parts else f"published train and test; {found['made']}"
    licence, note = facts.as_licence(), facts.note
    return ImageSet(name, listing.classes, root, **found, licence=licence, note=note, hierarchy=listing.hierarchy)


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

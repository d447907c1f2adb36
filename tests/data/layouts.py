"""Miniatures of published data sets: three or two classes, a few tiny images, annotation files as on their pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

TRAIN, TEST = 4, 2


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (len(path.name) * 9 % 256, 80, 20)).save(path)


def write(path: Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + end)


def id_lists(root: Path, classes: dict[str, str], folders: dict[str, str]) -> None:
    """CUB's and NABirds' files; the last line of each has no newline."""
    paths, labels, parts = [], [], []
    for key, folder in folders.items():
        for i in range(TRAIN + TEST):
            name = f"{key}-{i}"
            paths.append(f"{name} {folder}/{name}.jpg")
            labels.append(f"{name} {key}")
            parts.append(f"{name} {int(i < TRAIN)}")
            draw(root / "images" / folder / f"{name}.jpg")
    write(root / "classes.txt", [f"{key} {name}" for key, name in classes.items()], "")
    write(root / "images.txt", paths, "")
    write(root / "image_class_labels.txt", labels, "")
    write(root / "train_test_split.txt", parts, "")


def cub(root: Path) -> None:
    names = {"1": "001.Auk", "2": "002.Bunting", "10": "010.Crow"}
    id_lists(root, names, names)


def nabirds(root: Path) -> None:
    names = {"0": "Birds", "7": "Ducks", "817": "Eider", "9": "Eider", "1010": "Wigeon"}
    id_lists(root / "nabirds", names, {"1010": "1010", "817": "0817", "9": "0009"})
    write(root / "nabirds" / "hierarchy.txt", ["7 0", "817 7", "9 7", "1010 9"], "")


def annotations(rows: list[tuple[int, str]]) -> np.ndarray:
    found = np.zeros((1, len(rows)), dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
    for i, (label, name) in enumerate(rows):
        found[0, i] = (np.uint8(1), np.uint8(label), name)
    return found


def cars(root: Path, labels_in: str = "devkit") -> None:
    (root / "devkit").mkdir(parents=True)
    names = np.empty((1, 3), object)
    names[0] = ["Zeta 2012", "AM Hummer", "BMW M3"]
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    for part, each in (("train", TRAIN), ("test", TEST)):
        rows = [(i % 3 + 1, f"{i + 1:05}.jpg") for i in range(3 * each)]
        for _, name in rows:
            draw(root / f"cars_{part}" / name)
        file = "devkit/cars_train_annos.mat" if part == "train" else f"{labels_in}/cars_test_annos_withlabels.mat"
        savemat(root / file, {"annotations": annotations(rows)})


def dogs(root: Path) -> None:
    breeds = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02110958-pug"]
    for part, each, first in (("train", TRAIN, 0), ("test", TEST, TRAIN)):
        names = [f"{breed}/{breed[:9]}_{first + i}" for breed in breeds for i in range(each)]
        for name in names:
            draw(root / "Images" / f"{name}.jpg")
        cells = np.empty((len(names), 1), object)
        cells[:, 0] = names
        labels = np.repeat(np.arange(1, 4, dtype=np.uint8), each)[:, None]
        savemat(root / f"{part}_list.mat", {"annotation_list": cells, "labels": labels})


def aircraft(root: Path) -> None:
    data, variants = root / "data", ["737-200", "A310", "Cessna 172"]
    write(data / "variants.txt", variants, "")
    for p, (part, each) in enumerate((("train", TRAIN), ("val", 1), ("test", TEST))):
        rows = [(f"{p}{v}{i:05}", name) for v, name in enumerate(variants) for i in range(each)]
        for key, _ in rows:
            draw(data / "images" / f"{key}.jpg")
        write(data / f"images_variant_{part}.txt", [" ".join(row) for row in rows], "")


def inat2017(root: Path) -> None:
    kinds = [{"id": 2, "name": "Quercus", "supercategory": "Plantae"}]
    kinds += [{"id": i, "name": "Prunella", "supercategory": above} for i, above in ((1, "Aves"), (0, "Plantae"))]
    for part, each, first in (("train", 12, 0), ("val", TEST, 100)):
        images, labels = [], []
        for i in range(first, first + 3 * each):
            name = f"train_val_images/Plantae/{i}.jpg"
            draw(root / name)
            images.append({"id": i, "file_name": name})
            labels.append({"id": i, "image_id": i, "category_id": i % 3})
        # In another order than the images: pairing by place would mislabel them.
        body = {"images": images, "annotations": labels[::-1], "categories": kinds}
        (root / f"{part}2017.json").write_text(json.dumps(body))


def imagenet(root: Path) -> None:
    for part, each in (("train", 30), ("val", TEST)):
        for wnid in ("n01440764", "n01443537", "n02085620"):
            for i in range(each):
                draw(root / part / wnid / f"{part}_{i}.png")


def label_lists(root: Path, lists: str = "anno", train: int = 3) -> None:
    for part, each, first in (("train", train, 0), ("test", 3, train)):
        lines = []
        for number in (10, 2, 1):
            for i in range(first, first + each):
                name = f"leaf {number} {i}.png"
                draw(root / "images" / name)
                lines.append(f"{name} {number}")
        write(root / lists / f"{part}.txt", lines, "")


BUILDERS = {
    "cub": cub,
    "cars": cars,
    "dogs": dogs,
    "nabirds": nabirds,
    "aircraft": aircraft,
    "inat2017": inat2017,
    "imagenet": imagenet,
    "cotton80": label_lists,
    "soyglobal": label_lists,
    "afd": lambda root: label_lists(root, train=10),
}

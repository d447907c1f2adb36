from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.data import ImageSet, inherit_split, load_arrays, load_images, read_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.published import FACTS
from tavt_kit.errors import DataError, UnknownName

_spec = importlib.util.spec_from_file_location("miniatures", Path(__file__).with_name("layouts.py"))
assert _spec and _spec.loader
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)
BUILDERS: dict[str, Callable[[Path], None]] = small.BUILDERS

EXPECTED = {
    # classes, and the images of each class in train, val and test
    "cub": (("001.Auk", "002.Bunting", "010.Crow"), (4, 0, 2)),
    "cars": (("Zeta 2012", "AM Hummer", "BMW M3"), (4, 0, 2)),
    "dogs": (("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02110958-pug"), (4, 0, 2)),
    "nabirds": (("Eider (9)", "Eider (817)", "Wigeon"), (4, 0, 2)),
    "aircraft": (("737-200", "A310", "Cessna 172"), (4, 1, 2)),
    "inat2017": (("Prunella (0)", "Prunella (1)", "Quercus"), (11, 1, 2)),
    "imagenet": (("n01440764", "n01443537", "n02085620"), (29, 1, 2)),
    "cotton80": (("1", "2", "10"), (2, 1, 3)),
    "soyglobal": (("1", "2", "10"), (2, 1, 3)),
    "afd": (("1", "2", "10"), (9, 1, 3)),
}
NO_VAL = {name for name, (_, counts) in EXPECTED.items() if not counts[1]}
"""With so few images a tenth of a class is none, so these are given a quarter."""


@pytest.fixture(autouse=True)
def larger_val(monkeypatch: pytest.MonkeyPatch) -> None:
    quarters = {name: replace(FACTS[name], held_for_val=0.25) for name in (*NO_VAL, "aircraft")}
    monkeypatch.setattr("tavt_kit.data.published.FACTS", {**FACTS, **quarters})


def load(name: str, root: Path) -> ImageSet:
    return load_images(f"{name}:{root}")


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_each_layout_is_read_carved_and_recorded(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    BUILDERS[name](root)
    classes, (train, val, test) = EXPECTED[name]
    images = load(name, root)
    if name in NO_VAL:
        train, val = train - 1, 1
    assert images.classes == classes and images.name == name
    assert (images.counts("train"), images.counts("val"), images.counts("test")) == (
        (train,) * 3,
        (val,) * 3,
        (test,) * 3,
    )
    assert images.licence is not None and images.licence.name == FACTS[name].title
    # Every listed image opens, and what is recorded comes back.
    everything = [sample for split in images.splits.values() for sample in split]
    arrays = load_arrays(everything, Preprocessing((8, 8)))
    assert arrays.images.shape == (len(images), 3, 8, 8)
    inherit_split(tmp_path, images)
    assert read_split(tmp_path) == images
    if images.seed is None:
        assert name == "aircraft" and images.made == "as published"
    else:
        assert "val taken from train" in images.made
        assert load(name, root).sha256 == images.sha256


@pytest.mark.parametrize("name", [n for n in BUILDERS if n not in ("imagenet", "cotton80", "soyglobal", "afd")])
def test_an_unmistakable_folder_needs_no_name(tmp_path: Path, name: str) -> None:
    BUILDERS[name](tmp_path)
    assert load_images(str(tmp_path)).name == name


def test_labels_follow_the_annotations(tmp_path: Path) -> None:
    for name in ("cub", "dogs", "inat2017", "cotton80", "cars"):
        BUILDERS[name](tmp_path / name)
    found = {
        name: {images.relative(sample): sample.label for split in images.splits.values() for sample in split}
        for name in ("cub", "dogs", "inat2017", "cotton80", "cars")
        for images in [load(name, tmp_path / name)]
    }
    assert found["cub"]["images/010.Crow/10-3.jpg"] == 2
    assert found["dogs"]["Images/n02110958-pug/n02110958_5.jpg"] == 2
    assert all(label == int(Path(path).stem) % 3 for path, label in found["inat2017"].items())
    assert found["cotton80"]["images/leaf 10 5.png"] == 2  # a file name with spaces
    assert (found["cars"]["cars_train/00002.jpg"], found["cars"]["cars_test/00006.jpg"]) == (1, 2)


def test_other_places_and_home_made_lists(tmp_path: Path) -> None:
    small.cars(tmp_path / "cars", labels_in=".")
    assert load("cars", tmp_path / "cars").counts("test") == (2, 2, 2)
    (tmp_path / "up").mkdir()
    small.cub(tmp_path / "up" / "CUB_200_2011")
    assert load("cub", tmp_path / "up").root.name == "CUB_200_2011"
    small.label_lists(tmp_path / "anno", train=4)
    assert load("cub", tmp_path / "anno").counts("test") == (3, 3, 3)
    small.label_lists(tmp_path / "air" / "data", lists="", train=4)
    assert load_images(f"aircraft:{tmp_path / 'air'}").counts("val") == (1, 1, 1)


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _cut(path: Path, lines: int) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:lines]))


def _mat(path: Path, **variables: Any) -> None:
    small.savemat(path, variables)


def _dogs(path: Path, names: list[str], labels: list[int]) -> None:
    _mat(path, annotation_list=np.array([names], object).T, labels=np.array(labels, np.uint8)[:, None])


def _inat(root: Path, **more: dict[str, Any]) -> None:
    """Put one more entry at the end of a list of ``val2017.json``, such as of its images."""
    body = json.loads((root / "val2017.json").read_text())
    for name, entry in more.items():
        body[name].append(entry)
    (root / "val2017.json").write_text(json.dumps(body))


PUG, CHIHUAHUA = "n02110958-pug/n02110958_0", "n02085620-Chihuahua/n02085620_0"


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("cub", lambda r: (r / "train_test_split.txt").unlink(), "train_test_split.txt is missing"),
        ("cub", lambda r: (r / "images/001.Auk/1-0.jpg").unlink(), "1 of the 18 of CUB-200-2011 are absent.*1-0.jpg"),
        ("cub", lambda r: _append(r / "images.txt", "\n1-0 x.jpg"), "'1-0' stands twice"),
        ("cub", lambda r: _append(r / "images.txt", "\nnew x.jpg"), "'new'.*needs a known class"),
        ("cub", lambda r: _append(r / "images.txt", "\nalone"), "must be 'id value', got 'alone'"),
        ("cars", lambda r: (r / "devkit/cars_test_annos_withlabels.mat").unlink(), "test labels of Stanford Cars"),
        ("cars", lambda r: (r / "devkit/cars_meta.mat").write_bytes(b"x" * 300), "cannot be read as a MATLAB file"),
        ("cars", lambda r: _mat(r / "devkit/cars_train_annos.mat", annotations=small.annotations([(4, "x.jpg")])),
         "cars_train_annos.mat must be 1 to 3, got 4"),
        ("cars", lambda r: _mat(r / "devkit/cars_train_annos.mat", annotations={"fname": "x.jpg"}),
         "cars_train_annos.mat must have the field 'class'"),
        ("cars", lambda r: _mat(r / "devkit/cars_train_annos.mat", annotations={"class": "Zeta", "fname": "x.jpg"}),
         "cars_train_annos.mat must be numbers from 1 to 3"),
        ("dogs", lambda r: (r / "test_list.mat").unlink(), "test_list.mat is missing"),
        ("dogs", lambda r: _dogs(r / "train_list.mat", [PUG, CHIHUAHUA], [3]), "lists 2 images but 1 labels"),
        ("dogs", lambda r: _dogs(r / "train_list.mat", [PUG, CHIHUAHUA], [3, 3]),
         "3 means n02110958-pug and n02085620-Chihuahua"),
        ("dogs", lambda r: _dogs(r / "train_list.mat", [PUG], [0]), "must be 1 to 1000000, got 0"),
        ("dogs", lambda r: small.savemat(r / "train_list.mat", {"x": [1]}), "must hold the variable 'annotation_list'"),
        ("aircraft", lambda r: _cut(r / "data/variants.txt", 2), "names the variant 'Cessna 172'"),
        ("inat2017", lambda r: (r / "val2017.json").write_text("{"), "not a JSON file"),
        ("inat2017", lambda r: (r / "val2017.json").write_text("{}"), "lack what iNaturalist 2017's have"),
        ("inat2017", lambda r: (r / "val2017.json").write_text("[1]"), "val2017.json must be a JSON object"),
        ("inat2017", lambda r: _inat(r, annotations={"image_id": 101, "category_id": 0}), "101 has two"),
        ("inat2017", lambda r: _inat(r, images={"id": 102, "file_name": "x.jpg"}), "102 stands twice"),
        ("inat2017", lambda r: _inat(r, images={"id": 999, "file_name": "x.jpg"}), "999 has none"),
        ("cotton80", lambda r: (r / "anno/test.txt").write_text("leaf.png 0"), "'file label', the label from 1"),
        ("cotton80", lambda r: _append(r / "anno/train.txt", "\nleaf 1 0.png 1"), "listed once"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path: Path, name: str, damage: Callable[[Path], object], says: str) -> None:
    BUILDERS[name](tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=says):
        load(name, tmp_path)


def test_names_and_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        load_images(f"cub:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="say where CUB-200-2011 lies"):
        load_images("CUB:")
    with pytest.raises(DataError, match="give its folder as cub:FOLDER"):
        load_images("CUB")
    with pytest.raises(UnknownName, match="did you mean 'nabirds:/x'"):
        load_images("nabird:/x")

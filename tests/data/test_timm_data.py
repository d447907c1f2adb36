"""What timm reads: natural order, torchvision's small sets."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.data import load_images
from tavt_kit.errors import DataError
from tavt_kit.models.timm_import import timm

CLASSES = ("10", "2", "1")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path / "cache"))


def fill(folder: Path, classes: tuple[str, ...] = CLASSES, each: int = 5) -> Path:
    """Images whose grey value is the number that their class is named by."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            Image.new("RGB", (8, 8), (int(name),) * 3).save(folder / name / f"{index}.png")
    return folder


def grey(path: Path) -> int:
    return int(np.asarray(Image.open(path))[0, 0, 0])


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data")
    natural, plain = load_images(f"timm:{folder}"), load_images(str(folder))
    assert natural.classes == ("1", "2", "10") and plain.classes == ("1", "10", "2")
    assert len(natural.split("train")) == 9 and len(natural.split("val")) == 3
    for sample in natural.split("train"):
        assert sample.path.parent.name == natural.classes[sample.label]
    theirs = timm.data.create_dataset("", root=str(folder))
    mine = {sample.path: sample.label for part in ("train", "val", "test") for sample in natural.split(part)}
    assert mine == {Path(path): label for path, label in theirs.reader.samples}


def test_another_split_keeps_the_numbers_of_train(tmp_path: Path) -> None:
    fill(tmp_path / "data" / "train")
    fill(tmp_path / "data" / "val", ("10", "2"))
    images = load_images(f"timm:{tmp_path / 'data'}")
    assert {images.classes[sample.label] for sample in images.split("val")} == {"10", "2"}
    fill(tmp_path / "data" / "test", ("7",))
    with pytest.raises(DataError, match="the test part of .* has classes that train has not: 7"):
        load_images(f"timm:{tmp_path / 'data'}")


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def test_torchvisions_small_sets(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    labels = np.tile(np.arange(10, dtype=np.uint8), 4)
    images = np.broadcast_to(labels[:, None, None], (40, 28, 28)).copy()
    for name in ("train", "t10k"):
        idx(raw / f"{name}-images-idx3-ubyte", images)
        idx(raw / f"{name}-labels-idx1-ubyte", labels)
    images = load_images(f"timm:torch/fashion_mnist:{tmp_path}")
    assert len(images.classes) == 10 and images.classes[9] == "Ankle boot"
    assert {part: len(images.split(part)) for part in images.splits} == {"train": 30, "val": 10, "test": 40}
    assert all(np.asarray(Image.open(s.path)).max() == s.label for s in images.split("test"))
    stamps = {sample.path: sample.path.stat().st_mtime_ns for sample in images.split("test")}
    again = load_images(f"timm:torch/fashion_mnist:{tmp_path}")  # written once
    assert again.sha256 == images.sha256
    assert {sample.path: sample.path.stat().st_mtime_ns for sample in again.split("test")} == stamps


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for spec, says in (
        (f"timm:{tmp_path / 'absent'}", "is no folder; give timm:PLACE"),
        (f"timm:{tmp_path / 'empty'}", "timm cannot read .*Found 0 images"),
        ("timm:tfds/stanford_dogs:/x", "tfds/stanford_dogs:/x is no folder"),
        ("timm:torch/cifar10:/x", "by name torch/fashion_mnist, .* are read"),
        (f"timm:torch/mnist:{tmp_path}", "Dataset not found"),
    ):
        with pytest.raises(DataError, match=says) as caught:
            load_images(spec)
        assert "\n" not in str(caught.value)

from __future__ import annotations

from pathlib import Path

import pytest

from tavt_kit.data.images import ImageSet, Sample, split_name
from tavt_kit.errors import DataError


def samples(*names: str, label: int = 0) -> tuple[Sample, ...]:
    return tuple(Sample(Path("/d") / name, label) for name in names)


def make(**splits: tuple[Sample, ...]) -> ImageSet:
    return ImageSet("things", ("a", "b"), Path("/d"), splits)


def test_splits_are_sorted_by_class_then_path() -> None:
    images = make(train=samples("z", label=1) + samples("b", "a"), val=samples("y"))
    assert [images.relative(sample) for sample in images.split("train")] == ["a", "b", "z"]
    assert images.counts("train") == (2, 1)
    assert len(images) == 4
    assert images.held_out == "val"


def test_a_split_without_images_is_refused() -> None:
    with pytest.raises(DataError, match="the val split of things has no images"):
        make(train=samples("a") + samples("b", label=1), val=())


def test_the_hash_is_of_the_listing() -> None:
    images = make(train=samples("a") + samples("b", label=1), val=samples("c"))
    same = make(val=samples("c"), train=samples("b", label=1) + samples("a"))
    moved = ImageSet(
        "x",
        ("a", "b"),
        Path("/e"),
        {n: tuple(Sample(Path("/e") / s.path.name, s.label) for s in p) for n, p in images.splits.items()},
    )
    other = make(train=samples("a") + samples("b", label=1), val=samples("c", label=1))
    assert images.sha256 == same.sha256 == moved.sha256
    assert images.sha256 != other.sha256


def test_what_cannot_be_trained_is_refused() -> None:
    two = samples("a") + samples("b", label=1)
    with pytest.raises(DataError, match="at least two classes.*1 \\(only\\)"):
        ImageSet("x", ("only",), Path("/d"), {"train": two, "val": two})
    with pytest.raises(DataError, match="'b'.*no training image"):
        make(train=samples("a"), val=samples("c"))
    with pytest.raises(DataError, match="no val split"):
        make(train=two)
    with pytest.raises(DataError, match="val split.*no images"):
        make(train=two, val=())
    with pytest.raises(DataError, match="listed once.*b is in train and again in test"):
        make(train=two, val=samples("c"), test=samples("b"))
    with pytest.raises(DataError, match="'test' was asked"):
        make(train=two, val=samples("c")).split("test")


def test_a_model_of_other_classes_or_of_another_order_is_refused() -> None:
    images = make(train=samples("a") + samples("b", label=1), val=samples("c"))
    images.require_classes(images.classes)
    for known in (images.classes[::-1], (*images.classes, "one more")):
        with pytest.raises(
            DataError, match=f"knows {len(known)} classes .*{known[-1]}.* has 2 classes .*give the data"
        ):
            images.require_classes(known)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Train", "train"), ("valid", "val"), ("Validation ", "val"), ("testing", "test"), ("cat", None)],
)
def test_split_names(text: str, name: str | None) -> None:
    assert split_name(text) == name

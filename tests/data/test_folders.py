from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tavt_kit.data import load_images, look
from tavt_kit.data.folders import images_below
from tavt_kit.data.look import DataFacts, copies, look_at
from tavt_kit.errors import DataError, UnknownName

Draw = Callable[..., Path]
Folders = Callable[[Path, Iterable[str], int], Path]


def test_given_splits_are_taken_as_they_are(tmp_path: Path, class_folders: Folders) -> None:
    for name, each in {"train": 3, "Validation": 2, "test": 1}.items():
        class_folders(tmp_path / name, ["b10", "b9", "A"], each)
    images = load_images(str(tmp_path))
    assert images.classes == ("A", "b10", "b9")
    assert {name: images.counts(name) for name in images.splits} == {
        "train": (3, 3, 3),
        "val": (2, 2, 2),
        "test": (1, 1, 1),
    }
    assert (images.made, images.seed, images.held_out) == ("as given", None, "test")
    assert images.name == tmp_path.name


def test_one_folder_is_split_stratified_and_seeded(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path, ["a", "b"], 10)
    images = load_images(str(tmp_path), seed=3)
    assert {name: images.counts(name) for name in images.splits} == {
        "train": (6, 6),
        "val": (2, 2),
        "test": (2, 2),
    }
    assert images.seed == 3 and "60/20/20" in images.made
    assert load_images(str(tmp_path), seed=3).sha256 == images.sha256
    assert load_images(str(tmp_path), seed=4).sha256 != images.sha256


def test_the_split_does_not_depend_on_where_the_data_lies(tmp_path: Path, class_folders: Folders) -> None:
    here = load_images(str(class_folders(tmp_path / "here", ["a", "b"], 10)))
    there = load_images(str(class_folders(tmp_path / "else" / "where", ["a", "b"], 10)))
    assert here.sha256 == there.sha256


def test_val_is_carved_out_of_train(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path / "train", ["a", "b"], 8)
    class_folders(tmp_path / "test", ["a", "b"], 3)
    images = load_images(str(tmp_path))
    assert (images.counts("train"), images.counts("val"), images.counts("test")) == ((6, 6), (2, 2), (3, 3))
    assert all("train" in sample.path.parts for sample in images.split("val"))
    assert images.made.startswith("val taken from train") and images.made.endswith("75/25")


def test_train_and_val_without_test(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path / "train", ["a", "b"], 3)
    class_folders(tmp_path / "val", ["a"], 2)
    images = load_images(str(tmp_path))
    assert images.held_out == "val" and images.counts("val") == (2, 0)


def test_what_is_no_image_is_left_out(tmp_path: Path, draw: Draw, class_folders: Folders) -> None:
    class_folders(tmp_path, ["a", "b"], 5)
    for junk in ("a/Thumbs.db", "a/.DS_Store", "b/notes.txt", ".hidden/x.png", "a/.cache/y.png", "list.csv"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"x")
    draw(tmp_path / "a" / "deeper" / "still" / "more.JPG")
    images = load_images(str(tmp_path))
    assert images.classes == ("a", "b")
    assert sum(images.counts(name)[0] for name in images.splits) == 6
    assert sum(images.counts(name)[1] for name in images.splits) == 5


def test_bad_folders_are_refused_in_a_sentence(tmp_path: Path, draw: Draw, class_folders: Folders) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_images(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="no class folders"):
        load_images(str(tmp_path))
    (tmp_path / "zero" / "a").mkdir(parents=True)
    (tmp_path / "zero" / "b").mkdir()
    with pytest.raises(DataError, match="no image"):
        load_images(str(tmp_path / "zero"))
    draw(tmp_path / "zero" / "a" / "1.png")
    with pytest.raises(DataError, match=r"zero/b has no image"):
        load_images(str(tmp_path / "zero"))
    with pytest.raises(DataError, match="at least two classes"):
        load_images(str(class_folders(tmp_path / "single", ["only"], 10)))
    with pytest.raises(DataError, match="val split.*no images"):
        load_images(str(class_folders(tmp_path / "tiny", ["a", "b"], 2)))
    twice = class_folders(tmp_path / "twice" / "train", ["a", "b"], 2).parent
    class_folders(twice / "val", ["a", "b"], 1)
    class_folders(twice / "valid", ["a", "b"], 1)
    with pytest.raises(DataError, match=r"several val folders \(val, valid\)"):
        load_images(str(twice))
    strange = class_folders(tmp_path / "strange" / "train", ["a", "b"], 2).parent
    class_folders(strange / "val", ["a", "c"], 1)
    with pytest.raises(DataError, match="train has not: c"):
        load_images(str(strange))


def test_a_class_without_training_images_is_named(tmp_path: Path, class_folders: Folders) -> None:
    class_folders(tmp_path / "train", ["a", "b"], 2)
    class_folders(tmp_path / "val", ["a", "b"], 1)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="'empty'.*no training image"):
        load_images(str(tmp_path))


def test_an_unreadable_class_folder_is_named(
    tmp_path: Path, class_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path, ["a", "b"], 5)
    real = os.scandir

    def scandir(path: Path | str) -> object:  # permissions do not stop the root user that tests may run as
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="b cannot be read: Permission denied"):
        load_images(str(tmp_path))


def test_the_images_of_a_folder_that_vanished(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "in" / "deeper" / "b.png")
    draw(tmp_path / "in" / "c.png")
    assert [path.name for path in images_below(tmp_path / "in")] == ["c.png", "b.png"]
    with pytest.raises(DataError, match=r"c\.png must be a folder of images, but is a file"):
        images_below(tmp_path / "in" / "c.png")
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(DataError, match="in must be a folder of images, but is not there"):
        images_below(tmp_path / "in")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="in holds no images"):
        images_below(tmp_path / "in")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, ()),
        ({"least": 9, "most": 90}, ("only 9 training images: expect little",)),
        ({"least": 1}, ("only 1 training image: expect little", "over ten times the smallest")),
        ({"most": 121}, ("over ten times the smallest",)),
        ({"doubles": 3}, ("3 images are copies of another one in their split",)),
        ({"leaks": 2}, ("2 images are in two splits",)),
        ({"doubles": 3, "leaks": 2}, ("3 images are copies", "2 images are in two splits")),
    ],
)
def test_a_reader_is_warned_of_what_applies(facts: dict[str, int], says: tuple[str, ...]) -> None:
    plain = {"least": 12, "most": 120, "shorter_edge": 32, "doubles": 0, "leaks": 0}
    first, *more = DataFacts("birds", 2, {"train": 1320, "val": 40}, **{**plain, **facts}).sentences
    assert first.startswith("birds: 2 classes; 1,320 train, 40 val; ") and "32 pixels" in first
    assert len(more) == len(says) and all(text in said for said, text in zip(more, says, strict=True))


def test_of_very_many_images_only_the_files_are_compared(
    tmp_path: Path, class_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, ["a", "b"], 2)  # the same bytes in both
    (tmp_path / "val" / "a" / "00.png").unlink()
    (tmp_path / "val" / "a" / "00.png").hardlink_to(tmp_path / "train" / "a" / "00.png")
    images = load_images(str(tmp_path))
    assert len(copies(images)) == 4 and look_at(images).leaks == 4
    monkeypatch.setattr(look, "_MOST", 7)
    assert [[split for split, _ in group] for group in copies(images)] == [["train", "val"]]


def test_unknown_names_get_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'elpv'"):
        load_images("elvp")
    with pytest.raises(UnknownName, match="elpv, textile"):
        load_images("birds")
    with pytest.raises(DataError, match="nothing was given"):
        load_images(" ")
    (tmp_path / "data.zip").write_bytes(b"")
    with pytest.raises(DataError, match="another kind"):
        load_images(str(tmp_path / "data.zip"))

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tavt_kit.data import load_images
from tavt_kit.errors import DataError

Draw = Callable[..., Path]


def listing(folder: Path, text: str, name: str = "list.csv", encoding: str = "utf-8") -> str:
    path = folder / name
    path.write_text(text, encoding=encoding)
    return str(path)


def test_a_list_without_splits_is_split(tmp_path: Path, draw: Draw) -> None:
    rows = ["path,label"]
    for i in range(10):
        rows += [f"x/{draw(tmp_path / f'x/{i}.png').name},wren", f"{draw(tmp_path / f'y{i}.png')},10"]
    images = load_images(listing(tmp_path, "\n".join(rows)), seed=1)
    assert images.classes == ("10", "wren") and images.name == "list"
    assert images.counts("train") == (6, 6) and images.counts("test") == (2, 2)
    assert images.split("val")[0].path.is_file()


def test_given_splits_columns_in_any_order_and_a_byte_order_mark(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "a b.png")
    text = 'Label, split, note, path\ncat,train,,"a b.png"\ndog,TRAIN,x,d.png\ncat,valid,,c.png\n'
    images = load_images(listing(tmp_path, text, encoding="utf-8-sig"))
    assert images.classes == ("cat", "dog")
    assert [images.relative(sample) for sample in images.split("train")] == ["a b.png", "d.png"]
    assert images.counts("val") == (1, 0) and images.made == "as given"


def test_val_is_carved_out_of_train(tmp_path: Path, draw: Draw) -> None:
    rows = ["path,label,split"]
    for i in range(8):
        rows += [f"{draw(tmp_path / f'{label}{i}.png').name},{label},train" for label in "ab"]
    rows.append(f"{draw(tmp_path / 't.png').name},a,test")
    images = load_images(listing(tmp_path, "\n".join(rows)))
    assert (images.counts("train"), images.counts("val"), images.counts("test")) == ((6, 6), (2, 2), (1, 0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "missing: path, label; its columns: none"),
        ("path,kind\na.png,x\n", "missing: label; its columns: path, kind"),
        ("path,label\n", "lists no image"),
        ("path,label\na.png,\n", "line 2: an image needs a path and a label"),
        ("path,label,split\na.png,x,trian\n", "line 2: a split is train, val or test, got 'trian'"),
        ("path,label\nabsent.png,x\n", "none of the 1 images.*absent.png"),
        ("path,label\na.png,x\n./a.png,y\n", "listed once"),
        ("path,label\na.png,x\nb.png,x\n", "at least two classes"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, draw: Draw, text: str, says: str) -> None:
    draw(tmp_path / "a.png")
    with pytest.raises(DataError, match=says):
        load_images(listing(tmp_path, text))


def test_files_that_are_no_lists(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_images(str(tmp_path / "absent.csv"))
    (tmp_path / "latin.csv").write_bytes(b"path,label\n\xe9.png,x\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load_images(str(tmp_path / "latin.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_images(str(tmp_path / "folder.csv"))

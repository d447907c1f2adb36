from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.verbs.command import run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FGVC_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_known_sets_with_licence_and_state(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert run("datasets", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["datasets"]}
    assert (rows["elpv"]["pictures"], rows["elpv"]["classes"]) == (2624, 8)
    assert rows["elpv"]["licence"]["licence"] == "CC BY-NC-SA 4.0"
    assert rows["textile"]["licence"]["licence"] == "MIT" and not rows["textile"]["fetched"]
    assert rows["elpv"]["file"].startswith(str(cache))
    assert run("datasets") == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_a_set_that_is_not_here_is_not_fetched_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("datasets", "elpv") == 2
    assert "`fgvc-kit datasets elpv --get` fetches 91 MB" in capsys.readouterr().err
    assert run("datasets", "--get") == 2


def test_a_folder_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "[b]"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (4, 4)).save(tmp_path / "data" / name / f"{i}.png")
    assert run("datasets", str(tmp_path / "data")) == 0
    out = capsys.readouterr().out
    assert "[b]" in out and "60/20/20, seed 0" in out
    assert run("datasets", str(tmp_path / "data"), "--seed", "3", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["splits"] == {"train": [6, 6], "val": [2, 2], "test": [2, 2]} and shown["seed"] == 3
    assert run("datasets", str(tmp_path / "absent")) == 2
    assert "does not exist" in capsys.readouterr().err


def _anno(root: Path, classes: int) -> Path:
    """Mix-ViT's layout: three images of each class in train and in test."""
    for part in ("train", "test"):
        lines = [f"{part}{i}.png {i % classes + 1}" for i in range(3 * classes)]
        (root / "anno").mkdir(parents=True, exist_ok=True)
        (root / "images").mkdir(exist_ok=True)
        (root / "anno" / f"{part}.txt").write_text("\n".join(lines))
        for i in range(3 * classes):
            Image.new("L", (2, 2)).save(root / "images" / f"{part}{i}.png")
    return root


def test_a_data_set_of_the_user_s_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("datasets", f"cotton80:{_anno(tmp_path / 'all', 80)}", "--json") == 0
    assert set(map(tuple, json.loads(capsys.readouterr().out)["splits"].values())) == {(2,) * 80, (1,) * 80, (3,) * 80}


def test_bad_input_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, says in (
        (("check", "cub", str(tmp_path)), "check is gone"),
        ((f"cub:{tmp_path / 'absent'}",), "absent does not exist"),
        ((f"cub:{tmp_path}",), "classes.txt is missing"),
        (("cub", str(tmp_path)), "one data set is shown at a time"),
        (("cub",), "give its folder as cub:FOLDER"),
    ):
        assert run("datasets", *words) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1


def test_the_layouts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("datasets", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["layouts"]}
    assert rows["cub"]["sizes"] == {"train": 5994, "test": 5794}
    assert rows["aircraft"]["licence"]["licence"] == "non-commercial research only"
    assert run("datasets") == 0
    assert "nabirds" in capsys.readouterr().out

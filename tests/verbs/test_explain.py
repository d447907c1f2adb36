"""``explain`` through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tavt_kit.core.records import sha256_file
from tests.verbs.command import run
from tests.verbs.tiny import CLASSES, write_images


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), each=2)


def test_a_folder_gets_images_a_sheet_and_a_record(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    out = tmp_path / "out"
    assert run("explain", model, data, broken, "-o", out, "--schedule", "17,9,9,5", "--json") == 0
    printed = capsys.readouterr()
    record = json.loads((out / "explained.json").read_text())
    assert record["images"] == json.loads(printed.out)["images"] and record["unreadable"] == 1
    assert "broken.png" in printed.err and "1 of 7 images could not be read" in printed.err
    assert len(record["images"]) == 6
    for entry in record["images"]:
        assert size_of(out / entry["file"])[0] > 400 and entry["prediction"] in CLASSES
        assert [len(patches) for patches in entry["kept"].values()] == [8, 4]
        assert len(entry["maps"]["rollout"]) == 4
        assert entry["shows"] == ["attention rollout", "layer 1: 9 tokens", "layer 3: 5 tokens"]
        assert entry["sha256"] == sha256_file(out / entry["file"])


def test_at_most_so_many(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", model, data, "-o", tmp_path / "out", "--limit", 2) == 0
    assert "2 images (4 more images were left out; see --limit)" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere.png",), "nowhere.png"),
        (("{empty}",), "holds no images"),
        (("{data}", "--class", "disc"), "--class is gone"),
        (("{data}", "--schedule", "9,9,9,17"), "but only 9 reach it"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    given = [one.format(empty=tmp_path / "empty", data=data) for one in arguments]
    assert run("explain", model, *given, "-o", tmp_path / "out") == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

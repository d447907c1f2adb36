from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tavt_kit import cli


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


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

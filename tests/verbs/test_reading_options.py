"""The flags of reading: they reach the record, and what cannot be is one sentence that leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.errors import ParameterError
from tavt_kit.verbs.reading_options import reading_changes
from tests.verbs.command import run
from tests.verbs.tiny import write_pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "shapes", 8)


def finetune(data: Path, out: Path, *flags: str) -> int:
    model = ("train", "test_vit", "--weights", "random", "--image-size", "64", "--data", data, "-o", out)
    return run(*model, "--recipe", "finetune", "--steps", "2", "--batch", "4", *flags)


def test_flags_reach_the_record_and_workers_and_cache_change_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--resize", "72", "--crop", "random", "--augment", "none", "--color-jitter", "0.4", "--mixup", "0.8")
    assert finetune(data, tmp_path / "plain", *flags, "--workers", "0", "--json") == 0
    asked = json.loads(capsys.readouterr().out)["asked"]
    assert (asked["resize"], asked["crop"], asked["augment"], asked["mixup"]) == (72, "random", [], 0.8)
    assert asked["color_jitter"] == [0.4] * 3 and asked["interpolation"] and "workers" not in asked
    cache = tmp_path / "cache"
    assert finetune(data, tmp_path / "cached", *flags, "--workers", "1", "--cache", str(cache)) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "cached")]
    assert weights[0] == weights[1] and len(list(cache.glob("*/pixels.bin"))) == 2
    # Finished; asked again from elsewhere it is the same run, asked otherwise it is not.
    assert finetune(data, tmp_path / "cached", *flags, "--workers", "0") == 0
    capsys.readouterr()
    assert finetune(data, tmp_path / "cached", *flags[:-1], "0.1") == 2
    assert "mixup 0.8 (now 0.1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--resize", "big"), "600,600 or 256"),
        (("--crop", "center"), "centre"),
        (("--resize", "60", "--crop", "random"), "64x64"),
        (("--color-jitter", "a,b"), "0.4,0.4,0.4"),
        (("--crop-scale", "0.5"), "scale of a recipe must be two numbers"),
        (("--auto-augment", "imagenet"), "original"),
        (("--mixup", "0.5", "--batch", "3"), "even"),
        (("--cache", "/proc/nowhere"), "cannot write"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], named: str
) -> None:
    assert finetune(data, tmp_path / "out", *flags) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_flags_are_read_as_fields() -> None:
    found = reading_changes(resize="600,448", scale="0.2,1", augment="flip, shift", auto_augment="none", crop=None)
    assert found == {"resize": (600, 448), "scale": (0.2, 1.0), "augment": ("flip", "shift"), "auto_augment": "none"}
    assert reading_changes(resize="none", color_jitter="0.4,0") == {"resize": "none", "color_jitter": (0.4, 0.0)}
    with pytest.raises(ParameterError):
        reading_changes(ratio="wide")

"""Settings: spelled in three ways they reach the record, and what cannot be is one sentence that leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit import cli
from tavt_kit.verbs.settings import read_settings, settings_of, spell_settings
from tests.verbs.command import run
from tests.verbs.tiny import write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "shapes", 8)


def finetune(data: Path, out: Path, *flags: str) -> int:
    model = ("train", "test_vit", "--weights", "random", "--image-size", "64", "--data", data, "-o", out)
    return run(*model, "--recipe", "finetune", "--steps", "2", "--batch", "4", *flags)


def test_flags_reach_the_record_and_workers_change_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--resize", "72", "--crop", "random", "--augment", "none", "--color-jitter", "0.4", "--mixup", "0.8")
    assert finetune(data, tmp_path / "plain", *flags, "--workers", "0", "--json") == 0
    asked = json.loads(capsys.readouterr().out)["asked"]
    assert (asked["resize"], asked["crop"], asked["augment"], asked["mixup"]) == (72, "random", [], 0.8)
    assert asked["color_jitter"] == [0.4] * 3 and asked["interpolation"] and "workers" not in asked
    assert finetune(data, tmp_path / "again", *flags, "--workers", "1") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "again")]
    assert weights[0] == weights[1]
    # Finished; asked again from elsewhere it is the same run, asked otherwise it is not.
    assert finetune(data, tmp_path / "again", *flags, "--workers", "0") == 0
    capsys.readouterr()
    assert finetune(data, tmp_path / "again", *flags[:-1], "0.1") == 2
    assert "mixup 0.8 (now 0.1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--resize", "big"), "--resize is whole numbers with commas between them"),
        (("--crop", "center"), "random-resized"),
        (("--resize", "60", "--crop", "random"), "64x64"),
        (("--color-jitter", "a,b"), "such as 0.4,0.4, got 'a'"),
        (("--crop-scale", "0.5"), "scale of a recipe must be two numbers"),
        (("--auto-augment", "imagenet"), "original"),
        (("--mixup", "0.5", "--batch", "3"), "even"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], named: str
) -> None:
    assert finetune(data, tmp_path / "out", *flags) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--set", "weigth_decay=0.1"), "no setting 'weigth_decay'; did you mean weight_decay?"),
        (("--weigth-decay", "0.1"), "did you mean --weight-decay?"),
        (("--set", "weight_decay"), "NAME=VALUE"),
        (("--warmup", "soon"), "--warmup is a whole number, or none, got 'soon'"),
        (("--set", "nesterov=maybe"), "--nesterov is true or false"),
        (("--loss-weight", "mask"), "--loss-weights is given as NAME=NUMBER"),
        (("--blocks",), "takes a value"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], named: str
) -> None:
    assert run("train", "test_vit", "-o", tmp_path / "out", *flags) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_settings_are_read_as_their_fields() -> None:
    texts = ["resize=600,448", "scale=0.2,1", "augment=flip, shift", "auto_augment=none", "blocks=all", "lr_scale=a=1"]
    assert read_settings("train", [*texts, "lr_scale=b=2", "mixup=1", "mixup=0.2"]) == {
        "resize": (600, 448), "scale": (0.2, 1.0), "augment": ("flip", "shift"), "auto_augment": "none",
        "blocks": "all", "lr_scale": {"a": 1.0, "b": 2.0}, "mixup": 0.2,
    }  # fmt: skip
    assert read_settings("train", ["resize=none", "color_jitter=0.4,0", "augment=none", "blocks=2"]) == {
        "resize": "none", "color_jitter": (0.4, 0.0), "augment": (), "blocks": 2,
    }  # fmt: skip
    given = ["bound=0.3", "image_sizes=70,84"]
    assert read_settings("distill", given) == {"bound": 0.3, "image_sizes": (70, 84)}
    assert read_settings("distill", ["bound=0.2", "score=none"]) == {"bound": 0.2, "score": None}


def test_the_three_ways_to_spell_a_setting_are_one() -> None:
    own = {"--lr": False, "--fresh": True, "--out": False, "-o": False}
    spelled = ["--crop-scale", "0.2,1", "--no-nesterov", "--decay-matrices", "--loss-weight=mask=4", "-o", "x"]
    assert spell_settings("train", [*spelled, "--set", "fresh=true", "--set=lr=1", "--", "--blur"], own) == [
        "--set", "scale=0.2,1", "--set", "nesterov=false", "--set", "decay_all=false", "--set", "loss_weights=mask=4",
        "-o", "x", "--fresh", "--lr=1", "--", "--blur",
    ]  # fmt: skip
    assert spell_settings("show", ["run", "--blur", "1"], {}) == ["run", "--blur", "1"]


def test_every_setting_has_a_sentence() -> None:
    assert all(one.help for verb in cli.VERBS for one in settings_of(verb).values())


def test_a_file_gives_settings_and_the_command_line_wins(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    values = (
        "mixup = 0.8",
        "resize = [72, 72]",
        'crop = "random"',
        "probe = false",
        "lr = 2e-3",
        "lr-scale = {head = 2}",
    )
    file.write_text("\n".join(values))
    assert finetune(data, tmp_path / "out", "--config", str(file), "--set", "crop=random-resized", "--json") == 0
    recipe = json.loads(capsys.readouterr().out)["asked"]
    assert (recipe["mixup"], recipe["resize"], recipe["crop"], recipe["lr"]) == (0.8, [72, 72], "random-resized", 0.002)
    assert recipe["probe"] is False and recipe["lr_scale"] == {"head": 2.0}
    file.write_text("mixupp = 0.8")
    assert finetune(data, tmp_path / "out", "--config", str(file)) == 2
    assert "did you mean mixup?" in " ".join(capsys.readouterr().err.split())

"""``prune`` through the real command: cut, distil, search and export what is left; bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.models.flops import count_macs
from tests.verbs.command import run

STEPS = ("--steps", 2, "--batch", 4, "--warmup", 0)


def test_a_pruned_run_goes_on_as_any_other(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, taught = tmp_path / "small", tmp_path / "taught"
    cuts = ("--mlp", 0.5, "--heads", 0.67, "--depth", 3, "--training-images", 6)
    assert run("prune", model, "--data", data, "-o", small, *cuts) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "3 layers, 2 heads, 48 feed-forward channels" in out
    assert f"fgvc-kit distill {small} --teacher {model}" in out and "train one as well" in out
    record = json.loads((small / "prune.json").read_text())
    pruned, whole = load_model(small), load_model(model)
    assert record["before"]["macs"] == count_macs(whole) > count_macs(pruned) == record["after"]["macs"]
    assert record["left"]["layers"] == pruned.require_card().arguments["pruned"]["blocks"]
    assert record["left"]["heads"] == [2, 2, 2]
    assert run("distill", small, "--teacher", model, "-o", taught, *STEPS) == 0
    assert load_model(taught).state_dict()["pos_embed"].shape == (1, 17, 24)


@pytest.mark.slow
def test_the_whole_way_from_a_pruned_run(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    assert run("prune", model, "--data", data, "-o", small, "--mlp", 0.5, "--heads", 0.67, "--depth", 3) == 0
    assert run("train", small, "--data", data, "-o", tmp_path / "tuned", "--recipe", "modern", *STEPS) == 0
    assert run("search", small, "-o", tmp_path / "found", "--budget", "flops=200K", "--evaluations", 6,
               "--min-patches", 1, "--no-baselines") in (0, 1)  # fmt: skip
    capsys.readouterr()
    assert run("export", small, "--schedule", "17,12,9", "--format", "onnx,openvino", "--json") in (0, 1)
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert len(checks) == 2 and all(check["agreement"] == 1.0 for check in checks)
    assert run("eval", small, "--json") == 0
    assert run("bench", small, "--target", "torch:cpu:threads=1", "--min-time", "0.05", "--max-time", "1s") == 0


def test_the_same_command_does_nothing_again(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("prune", model, "--data", data, "-o", tmp_path / "a", "--mlp", 0.5, "--importance", "magnitude")
    assert run(*command) == 0
    first, written = capsys.readouterr().out, (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns
    assert run(*command) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "a" / "model.safetensors").stat().st_mtime_ns == written
    assert run(*command, "--round-to", 4) == 2
    assert "another targets" in capsys.readouterr().err
    assert run(*command, "--round-to", 4, "--fresh") == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "nothing is to be pruned"),
        (("--mlp", "1.5"), "--mlp is the share"),
        (("--depth", "9"), "here 1 to 4, got 9"),
        (("--mlp", "0.5", "--importance", "beauty"), "importance is one of"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    assert run("prune", model, "--data", data, "-o", tmp_path / "a", *arguments) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_a_foreign_run_is_never_overwritten(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    for out, sentence in ((other, "that prune did not write"), (model, "holds the model that is to be pruned")):
        assert run("prune", model, "--data", data, "-o", out, "--mlp", 0.5, "--fresh") == 2
        assert sentence in capsys.readouterr().err
    assert load_model(other).layers == 4

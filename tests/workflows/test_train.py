"""``train`` and ``distill`` as Python functions: what the verbs do, without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.core.records import sha256_file
from tavt_kit.errors import DataError, OutputError, ParameterError, TrainingError
from tavt_kit.workflows.distill import distill
from tavt_kit.workflows.train import train
from tests.verbs.command import run

STEPS = {"steps": 2, "batch": 6, "precision": "f32"}
FLAGS = ("--steps", 2, "--batch", 6, "--precision", "f32")


def same_weights(one: Path, other: Path) -> bool:
    return sha256_file(one / "model.safetensors") == sha256_file(other / "model.safetensors")


def test_train_gives_what_the_verb_gives(
    data: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("train", model, "--data", data, "--recipe", "finetune", "--blocks", "all", *FLAGS)
    assert run(*words, "-o", tmp_path / "verb", "--json") == 0
    said = json.loads(capfd.readouterr().out)
    done = train(model, tmp_path / "function", data, recipe="finetune", blocks="all", **STEPS)
    assert capfd.readouterr() == ("", "")
    assert same_weights(tmp_path / "verb", tmp_path / "function")
    assert done.record["results"]["val"] == said["results"]["val"]
    assert done.record["asked"] == said["asked"]
    written = json.loads((tmp_path / "function" / "run.json").read_text())
    assert written == {"schema": "fgvc-kit/run", "version": 1, **done.record}
    assert repr(done) == f"<TrainResult {tmp_path / 'function'}: top-1 {done.top1}>"


def test_distill_gives_what_the_verb_gives(
    data: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("distill", model, "--data", data, *FLAGS, "-o", tmp_path / "verb", "--bound", "0.3", "--json") == 0
    said = json.loads(capfd.readouterr().out)
    done = distill(model, tmp_path / "function", data, bound=0.3, **STEPS)
    assert capfd.readouterr() == ("", "")
    assert same_weights(tmp_path / "verb", tmp_path / "function")
    assert done.record["results"]["after"] == said["results"]["after"]
    table = done.to_frame()
    assert list(table["schedule"]) == [one["name"] for one in said["results"]["after"]]
    assert repr(done).startswith(f"<DistillResult {tmp_path / 'function'}: top-1 ")


def test_what_cannot_be_names_parameters(data: Path, model: Path, tmp_path: Path, quiet: None) -> None:
    with pytest.raises(DataError, match="give `data`"):
        train(model, tmp_path / "out")
    with pytest.raises(TrainingError, match="did you mean steps"):
        train(model, tmp_path / "out", data, step=3)
    with pytest.raises(ParameterError, match="`bound=0.3` would do nothing"):
        distill(model, tmp_path / "out", data, bound=0.3, schedule="taper:0.2")
    with pytest.raises(ParameterError, match="no `teacher` is given"):
        distill(model, tmp_path / "out", data, teacher_weight=0.3)
    with pytest.raises(OutputError, match="choose another `out`"):
        distill(model, model, data)
    assert not (tmp_path / "out").exists()

"""What a workflow takes: a path, the result of an earlier step, or a model in hand, which stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.core.records import sha256_file
from tavt_kit.data import inherit_split, load_images
from tavt_kit.errors import OutputError, ParameterError
from tavt_kit.workflows.check import check
from tavt_kit.workflows.distill import distill
from tavt_kit.workflows.evaluate import evaluate
from tavt_kit.workflows.export import export
from tavt_kit.workflows.predict import predict
from tavt_kit.workflows.profile import profile
from tavt_kit.workflows.prune import prune
from tavt_kit.workflows.search import search
from tavt_kit.workflows.train import train
from tests.verbs.tiny import write_run

STEPS = {"steps": 2, "batch": 6, "precision": "f32"}


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that knows its images."""
    folder = write_run(tmp_path_factory.mktemp("trained") / "run")
    inherit_split(folder, load_images(str(data), seed=5))
    return folder


def weights(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def test_what_a_workflow_gave_is_what_the_next_one_takes(data: Path, model: Path, tmp_path: Path) -> None:
    files = export(model, tmp_path / "shipped", schedule="14,11,8,8", format="onnx", data=data, compare_dense=False)
    assert os.fspath(files) == str(tmp_path / "shipped") and Path(files[0]) == files[0].path
    by_file, by_path = (evaluate(thing, data, split="test") for thing in (files[0], files[0].path))
    assert by_file.record == by_path.record
    photo = next(data.rglob("*.png"))
    assert predict(files[0], photo).record == predict(str(files[0].path), photo).record


@pytest.mark.slow
def test_results_of_training_are_trained_loaded_and_searched(data: Path, model: Path, tmp_path: Path) -> None:
    done = train(model, tmp_path / "trained", data, recipe="finetune", blocks="all", **STEPS)
    steps = done.to_frame()
    assert list(steps["step"]) == [1, 2] and "loss" in steps and done.journal == steps.to_dict("records")
    taught = distill(done, tmp_path / "distilled", teacher=done, bound=0.3, **STEPS)
    assert [line["step"] for line in taught.journal] == [1, 2]
    small = prune(taught, tmp_path / "small", mlp=0.5, importance="magnitude")
    assert small.run == taught.folder and small.record["source"] == str(taught.folder)
    assert load_model(small).folder == small.folder
    found = search(small, out=tmp_path / "searched", evaluations=2, population=2, baselines=False)
    again = distill(small, tmp_path / "again", schedules=found, **STEPS)
    assert again.record["asked"]["schedules"]


@pytest.mark.slow
def test_a_loaded_model_knows_its_images(trained: Path, tmp_path: Path, quiet: None) -> None:
    own = load_model(trained)
    asked = {"budget": "flops=400K", "evaluations": 4, "population": 2, "baselines": False}
    found = search(own, out=tmp_path / "in hand", **asked)
    assert found.front == search(trained, out=tmp_path / "folder", **asked).front
    assert evaluate(own).top1 == evaluate(trained).top1
    files = export(own, tmp_path / "shipped", schedule="14,11,8,8", format="onnx", compare_dense=False)
    by_path = export(trained, tmp_path / "again", schedule="14,11,8,8", format="onnx", compare_dense=False)
    assert files.record["artifacts"] == by_path.record["artifacts"]
    assert check(files[0], own, compare_dense=False).checks[0].record["source"]["run"] == str(trained)
    profiled = profile(load_model(trained), target="torch:cpu", max_time=0.1)
    assert profiled.file == trained / "profile.json"
    profiled.file.unlink()


@pytest.mark.slow
def test_a_model_in_hand_stays_as_it_is_where_weights_change(trained: Path, data: Path, tmp_path: Path) -> None:
    own = load_model(trained)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    pruned = {"mlp": 0.5, "importance": "magnitude"}
    fitted = {"recipe": "finetune", "blocks": "all", **STEPS}
    for given, folder in ((own, tmp_path / "in hand"), (trained, tmp_path / "folder")):
        distill(given, folder / "distilled", bound=0.3, **STEPS)
        prune(given, folder / "small", **pruned)
        train(given, folder / "trained", data, **fitted)
    for step in ("distilled", "small", "trained"):
        assert weights(tmp_path / "in hand" / step) == weights(tmp_path / "folder" / step)
    assert all((before[name] == tensor).all() for name, tensor in own.state_dict().items())
    with pytest.raises(OutputError, match="choose another `out`"):
        distill(own, trained)
    with pytest.raises(OutputError, match="choose another `out`"):
        prune(own, trained, mlp=0.5)
    with pytest.raises(ParameterError, match="keeps its own, got `weights` random; leave it out"):
        train(own, tmp_path / "refused", data, weights="random")

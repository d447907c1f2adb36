"""``distill`` through the real command: distil, search, distil again; teachers, growing bounds, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.models.flops import count_macs
from tests.reports.records import EMPTY_FRONT
from tests.verbs.command import run
from tests.verbs.tiny import write_run

FEW = ("--steps", 3, "--batch", 4)


@pytest.mark.slow
def test_distil_search_and_distil_again_what_was_found(data: Path, model: Path, tmp_path: Path) -> None:
    first, found, again = tmp_path / "first", tmp_path / "found", tmp_path / "again"
    assert run("distill", model, "--data", data, "-o", first, "--bound", 0.6, *FEW) == 0
    assert json.loads((first / "run.json").read_text())["asked"]["bound"] == 0.6
    budget = f"flops={0.8 * count_macs(load_model(model)):.0f}"
    searched = ("--budget", budget, "--evaluations", 12, "--no-baselines", "--fix", "image-size,layers")
    assert run("search", first, "-o", found, *searched) == 0
    front = {tuple(one["schedule"]) for one in json.loads((found / "front.json").read_text())["candidates"]}
    assert run("distill", first, "-o", again, "--schedules", found, "--schedule", "17,12,9,6", *FEW) == 0
    record = json.loads((again / "run.json").read_text())
    assert len(record["asked"]["schedules"]) == len(front) + 1 and record["asked"]["schedules"][0] == "17,12,9,6"
    assert record["results"]["loop"]["steps"] == 3
    assert "schedules" in load_model(again).require_card().provenance


@pytest.mark.slow
def test_a_teacher_of_another_size(data: Path, model: Path, tmp_path: Path) -> None:
    big = tmp_path / "big"
    images = ("--data", data, "--weights", "random", "--image-size", 64)
    assert run("train", "test_vit", *images, "-o", big) == 0
    assert (
        run("distill", model, "--data", data, "-o", tmp_path / "b", "--teacher", big, "--sampling", "ratio", *FEW) == 0
    )
    logged = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert all(step["teacher"] > 0 for step in logged)
    assert len(json.loads((tmp_path / "b" / "run.json").read_text())["asked"]["teacher_sha256"]) == 64


def trained(tmp_path: Path, data: Path) -> Path:
    """A run that was trained, with no schedules to be judged at."""
    images = ("--data", data, "--weights", "random", "--image-size", 32)
    assert run("train", "test_vit", *images, "-o", tmp_path / "trained") == 0
    return tmp_path / "trained"


@pytest.mark.slow
def test_a_control_takes_the_same_steps_by_its_labels_alone(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ("distill", str(model), "--data", str(data), "-o", str(out), *map(str, FEW))
    monkeypatch.setattr("sys.argv", ["fgvc-kit", *words])
    assert run(*words) == 0
    said = capsys.readouterr().out.strip().splitlines()[-1]
    command = said.removeprefix("what fine-tuning alone gives: fgvc-kit ")
    assert command == f"{' '.join(words)} --control -o {out / 'control'}"
    assert run(*command.split()) == 0 and f"both: fgvc-kit report {out}" in capsys.readouterr().out
    logged = [json.loads(line) for line in (out / "control" / "metrics.jsonl").read_text().splitlines()]
    assert len(logged) == 3
    assert all(step["loss"] == step["cross_entropy"] and "kl_smallest" not in step for step in logged)
    ours, control = (json.loads((folder / "run.json").read_text()) for folder in (out, out / "control"))
    assert {key for key in ours["asked"] if ours["asked"][key] != control["asked"][key]} == {"sampling"}
    assert "labels alone" in load_model(out / "control").require_card().provenance
    assert run(*words) == 0 and "Beside it the same steps by the labels alone" in capsys.readouterr().out
    assert run("report", out) == 0 and "Labels alone" in (out / "report.html").read_text()
    # Held against each other: what distillation gave, image by image; and whoever compares the run sees its control.
    assert run("compare", out / "control", out) in (0, 1)
    said = capsys.readouterr().out
    assert "accuracies paired image by image" in said and "learned (by labels alone and by distillation)" in said
    assert "only in the second: dense, by labels alone; " in said
    assert run("compare", out, out) == 0 and " dense, by labels alone " in capsys.readouterr().out
    assert run("compare", trained(tmp_path, data), out) in (0, 1)  # of a training there is the model as it was trained
    said = capsys.readouterr().out
    assert " dense " in said and "accuracies as of different images" in said
    assert run(*words, "--control", "--bound", 0.2) == 2 and "labels alone" in capsys.readouterr().err


def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = write_run(tmp_path / "stranger", classes=("disc", "ring", "stripe"))
    deep = tmp_path / "front.json"
    known = {"macs": 9, "latency_ms": None, "n": 6, "ci95": [0.2, 0.8], "top1": 0.5}
    card = json.loads((model / "model.json").read_text())
    front = {**EMPTY_FRONT, "schema": "fgvc-kit/front", "version": 2, "model": card}
    deep.write_text(json.dumps({**front, "candidates": [{"schedule": [17, 17, 12, 9, 6], **known}]}))
    (tmp_path / "empty.json").write_text(json.dumps({**front, "candidates": []}))
    cases = {
        ("--bound", "1.2"): "above 0 and below 1, got 1.2",
        ("--bound", "0.2:0.6"): "got '0.2:0.6'",
        ("--teacher", stranger): "class 1 of the teacher is ring and of the student",
        ("--teacher", tmp_path / "nowhere"): "nowhere",
        ("--teacher-weight", "0.3"): "no --teacher is given",
        ("--schedule", "9,12,9,6"): "layer 1 keeps 12 tokens, but only 9 reach it",
        ("--schedule", "17,12,9"): "the model has 4 layers, but the schedule has 3",
        ("--schedule", "17,12,9,1"): "at least 2 must stay",
        ("--schedule", "20,12,9,6"): "the model has 17 tokens",
        ("--schedule", "dense"): "keeps all 17 tokens",
        ("--schedule", "17,12,9,6", "--bound", "0.3"): "leave one of them out",
        ("--schedules", deep): "is the front of another model",
        ("--schedules", tmp_path / "empty.json"): "its front is empty",
        ("--schedules", tmp_path / "nowhere"): "cannot read",
        ("--image-size", "big"): "whole numbers with commas between them, such as",
        ("--sampling", "magic"): "one of bound, ratio",
        ("--chunk", 0): "--chunk must be at least 1, got 0",
    }
    for flags, sentence in cases.items():
        assert run("distill", model, "--data", data, "-o", tmp_path / "never", *flags, *FEW) == 2, flags
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, (flags, said)
        left = list((tmp_path / "never").iterdir()) if (tmp_path / "never").exists() else []
        assert not left, (flags, left)

"""``fgvc-kit export``, ``check`` and ``predict``: what they leave, what they refuse, through the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tavt_kit.checkpoints import load_model
from tavt_kit.core.artifact_card import ArtifactCard, read_metadata
from tavt_kit.core.records import read_record, write_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.exporters.to_onnx import attach_card
from tavt_kit.exporters.writer import Writer
from tests.parameters import few
from tests.verbs.command import run
from tests.verbs.tiny import CLASSES, write_images, write_run

ROOT = Path(__file__).parents[2]
SCHEDULE = "14,11,8,8"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``data``, a model in ``run``, and ``run/export`` holding it as ONNX and OpenVINO."""
    folder = tmp_path_factory.mktemp("export")
    write_images(folder / "data")
    write_run(folder / "run")
    assert export(folder, "--schedule", SCHEDULE, "--format", "onnx,openvino") == 0
    return folder


def export(place: Path, *flags: object) -> int:
    return run("export", place / "run", "--data", place / "data", *flags)


def checks(folder: Path) -> dict[str, dict[str, Any]]:
    record = read_record(folder / "check.json", "check")
    return {entry["artifact"]: entry for entry in record["checks"]}


def exported(folder: Path) -> dict[str, dict[str, Any]]:
    record = read_record(folder / "exported.json", "exported")
    return {entry["file"]: entry for entry in record["artifacts"]}


# --------------------------------------------------------------------------------------------------- export


def test_files_and_records(place: Path) -> None:
    folder = place / "run" / "export"
    assert {file.name for file in folder.iterdir()} == {
        "check.json", "exported.json", "model.f32.bin", "model.f32.onnx", "model.f32.xml"
    }  # fmt: skip
    for name in ("model.f32.onnx", "model.f32.xml"):
        card = read_metadata(folder / name)
        assert (card.classes, str(card.schedule), card.precision) == (CLASSES, SCHEDULE.replace("8,8", "8x2"), "f32")
        entry, found = exported(folder)[name], checks(folder)[name]
        assert (entry["status"], entry["verdict"], found["verdict"]) == ("final", "PASS", "PASS")
        assert entry["sha256"] == found["sha256"]
        assert found["data"]["split"] == found["artifact_top1"]["split"] == "test"
        assert found["agreement"] == 1.0
        assert found["dense_top1"]["n"] == found["artifact_top1"]["n"] == 6


def test_the_same_export_again_makes_nothing_anew(place: Path) -> None:
    folder = place / "run" / "export"
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert export(place, "--schedule", SCHEDULE, "--format", "openvino") == 0
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_another_export_into_the_same_folder_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(place, "--schedule", "dense") == 2
    said = capsys.readouterr().err
    assert "schedule was 14,11,8x2 and is 17x4" in said
    assert "--fresh" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_damaged_file_is_made_again(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run" / "export", tmp_path / "out")
    file = tmp_path / "out" / "model.f32.onnx"
    file.write_bytes(file.read_bytes()[:-10])
    assert export(place, "--schedule", SCHEDULE, "--format", "onnx", "-o", tmp_path / "out") == 0
    assert read_metadata(file).classes == CLASSES


@pytest.mark.slow
def test_int8_is_unproven_until_more_images_or_a_wider_gate(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ("--schedule", SCHEDULE, "--precision", "int8", "--calibrate", 6, "--smooth-quant", "off", "-o", out)
    assert export(place, *flags) == 1
    assert "images would decide" in capsys.readouterr().out
    names = {"model.int8.xml", "model.int8.bin"}
    assert {file.name for file in out.iterdir()} == {f"{n}.unproven" for n in names} | {"check.json", "exported.json"}
    entry = exported(out)["model.int8.xml"]
    assert (entry["status"], entry["calibration"]["split"], entry["calibration"]["images"]) == ("unproven", "train", 6)
    again = ("check", out / "model.int8.xml.unproven", "--against", place / "run", "--data", place / "data")
    assert run(*again) == 1
    assert (out / "model.int8.xml.unproven").exists()
    assert run(*again, "--drop", 100, "--no-compare-dense") == 0
    assert names < {file.name for file in out.iterdir()}
    assert checks(out)["model.int8.xml"]["verdict"] == "PASS"
    assert exported(out)["model.int8.xml"]["status"] == "final"
    assert read_metadata(out / "model.int8.xml").calibration["images"] == 6  # type: ignore[index]
    assert run("predict", out / "model.int8.xml", place / "data" / "disc" / "0.png") == 0


@pytest.mark.slow
def test_an_unproven_file_can_be_taken_later(place: Path, tmp_path: Path) -> None:
    flags = ("--schedule", SCHEDULE, "--precision", "f16", "-o", tmp_path)
    assert export(place, *flags) == 1
    written = (tmp_path / "model.f16.bin.unproven").stat()
    assert export(place, *flags, "--accept-inconclusive") == 0
    assert (tmp_path / "model.f16.bin").stat().st_mtime_ns == written.st_mtime_ns
    assert exported(tmp_path)["model.f16.xml"]["status"] == "final"
    assert not list(tmp_path.glob("*.unproven"))


def test_a_fail_leaves_nothing_under_the_final_name(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(place / "run" / "export", out)
    write = Writer._write_onnx

    def off_by_one(self: Writer, card: ArtifactCard, path: Path) -> None:
        """Says one schedule, holds another."""
        write(self, replace(card, schedule=TokenSchedule((14, 11, 9, 9))), path)
        model = onnx.load(str(path))
        attach_card(model, card)
        onnx.save(model, str(path))

    monkeypatch.setattr(Writer, "_write_onnx", off_by_one)
    flags = ("--schedule", SCHEDULE, "--format", "onnx", "-o", out)
    assert export(place, *flags, "--fresh") == 1
    assert "FAIL" in capsys.readouterr().out
    left = {file.name for file in out.iterdir()}
    assert left == {"check.json", "exported.json", "model.f32.xml", "model.f32.bin"}
    assert exported(out)["model.f32.onnx"]["status"] == "refused"
    monkeypatch.setattr(Writer, "_write_onnx", write)
    assert export(place, *flags) == 0


def test_safetensors_are_the_model_again(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(place, "--schedule", SCHEDULE, "--format", "safetensors", "-o", out) == 0
    assert {file.name for file in out.iterdir()} == {"check.json", "exported.json", "model.json", "model.safetensors"}
    assert load_model(out).schedule.counts == (14, 11, 8, 8)
    assert run("predict", out, place / "data" / "disc" / "0.png") == 0
    assert export(place, "--schedule", "dense", "--format", "safetensors", "-o", place / "run") == 2


def _front(folder: Path, chosen: int | None) -> None:
    candidates = [
        {"schedule": list(counts), "macs": macs, "top1": top1, "n": 6, "latency_ms": None, "verdict": "PASS"}
        for counts, macs, top1 in (((9, 9, 9, 9), 1, 0.5), ((14, 11, 8, 8), 2, 0.6), ((17, 17, 17, 17), 3, 0.9))
    ]
    body = {"metric": "top1", "candidates": candidates, "chosen": chosen, "verdict": "PASS", "budgets": []}
    write_record(folder / "front.json", "front", body)


def test_a_search_s_run_exports_what_was_chosen_or_picked(place: Path, tmp_path: Path) -> None:
    from tavt_kit.errors import RecordError, ScheduleError
    from tavt_kit.workflows.schedules import presets_for, schedule_for, schedules_for

    folder = tmp_path / "search"
    shutil.copytree(place / "run", folder, ignore=shutil.ignore_patterns("export"))
    model = load_model(folder)
    assert schedule_for(folder, model, None, None) == model.dense_schedule
    (folder / "search.db").touch()  # a search that found nothing yet
    with pytest.raises(RecordError, match="holds no search result"):
        schedule_for(folder, model, None, None)
    _front(folder, 1)
    found = {pick: schedule_for(folder, model, None, pick).counts for pick in (None, "fast", "accurate", "1", "2")}
    assert found[None] == found["1"] == (14, 11, 8, 8)
    assert found["fast"] == (9, 9, 9, 9)
    assert found["accurate"] == found["2"] == (17, 17, 17, 17)
    assert schedule_for(folder, model, "dense", None) == model.dense_schedule
    assert list(presets_for(folder, model, [])) == ["fast", "balanced", "accurate"]
    assert [one.counts[0] for one in presets_for(folder, model, []).values()] == [9, 14, 17]
    assert schedules_for(folder, model, [], "fast")[""] == schedule_for(folder, model, None, "0")
    for pick in ("3", "-1", "middle"):
        with pytest.raises(RecordError, match="from 0 to 2"):
            schedule_for(folder, model, None, pick)
    with pytest.raises(ScheduleError, match="give one of them"):
        schedule_for(folder, model, "dense", "accurate")
    _front(folder, None)
    with pytest.raises(RecordError, match="chose no schedule"):
        schedule_for(folder, model, None, None)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--schedule", "14,15,8,8"), "only 14 reach it"),
        (("--schedule", "14,8"), "the model has 4 layers"),
        (("--schedule", "dense", "--format", "tflite"), "onnx, openvino, safetensors, got 'tflite'"),
        (("--schedule", "dense", "--precision", "f8"), "unknown precision 'f8'"),
        (("--schedule", "dense", "--format", "onnx", "--precision", "bf16"), "would run f32 instead"),
        (("--schedule", "dense", "--quantizer", "gptq", "--precision", "int8"), "nncf or onnxruntime, got 'gptq'"),
        (("--schedule", "dense", "--switchable", "--schedule", "taper:0.2"), "presets need names of their own"),
        (("--schedule", "a=dense", "--schedule", "a=taper:0.2"), "two schedules are called a"),
        (("--schedule", "A=dense", "--schedule", "b=dense"), "small letters"),
        (("--schedule", "dense", "--schedule", "taper:0.2", "--format", "safetensors"), "runs every schedule"),
        (("--switchable",), "holds no search result"),
        (("--switchable", "--pick", "fast"), "leave out --pick fast"),
        (("--schedule", "dense", "--target", "openvino:tpu"), "unknown processor"),
        (("--schedule", "dense", "--split", "holdout"), "splits train, val, test"),
        (("--schedule", "dense", "-o", "/proc/nowhere"), "cannot write"),
        (("--pick", "fast"), "holds no search result"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Path, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(place, *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_run_without_data_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", place / "run", "--schedule", "dense") == 2
    assert "give --data" in capsys.readouterr().err
    assert run("check", place / "run" / "export" / "model.f32.xml") == 2
    assert "does not say on which data it was made; give --data FOLDER too" in capsys.readouterr().err


def test_the_obvious_needs_no_flag(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = tmp_path / "trained"
    assert run("train", place / "run", "--data", place / "data", "-o", run_folder) == 0
    assert run("export", run_folder) == run("check", run_folder / "export" / "model.f32.xml") == 0
    assert run("export", run_folder, "--dense", "-o", tmp_path / "dense") == 0  # as eval, predict and bench say it
    assert str(read_metadata(tmp_path / "dense" / "model.f32.xml").schedule) == "17x4"
    assert run("export", run_folder, "--no-dense") == 2
    assert "--no-dense is gone: --no-compare-dense" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- check


def test_check_against_another_model_fails_and_removes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "other", seed=2)
    file = place / "run" / "export" / "model.f32.onnx"
    flags = ("--against", tmp_path / "other", "--data", place / "data", "-o", tmp_path, "--json", "--no-compare-dense")
    assert run("check", file, *flags) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["same_weights"], said["dense_top1"]) == ("FAIL", False, None)
    assert file.exists()
    assert list(checks(tmp_path)) == ["model.f32.onnx"]


@pytest.mark.slow
def test_check_runs_a_file_where_it_is_told(place: Path, tmp_path: Path) -> None:
    file = place / "run" / "export" / "model.f32.onnx"
    flags = ("--against", place / "run", "--data", place / "data", "-o", tmp_path, "--split", "val", "--limit", 4)
    assert run("check", file, *flags, "--target", "openvino:cpu:threads=1") == 0
    found = checks(tmp_path)["model.f32.onnx"]
    assert found["agreement"] == 1.0 and found["verdict"] == "PASS"
    assert found["executed"] == "openvino:cpu:threads=1:precision=f32:batch=1"
    assert (found["artifact_top1"]["split"], found["artifact_top1"]["n"]) == ("val", 4)


@pytest.mark.parametrize(
    ("file", "against", "said"),
    [
        ("absent.onnx", "run", "no file"),
        ("data/disc/0.png", "run", "ends in"),
        ("run/export/model.f32.xml", "data", "model.json"),
    ],
)
def test_check_of_the_wrong_things(
    file: str, against: str, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", place / file, "--against", place / against, "--data", place / "data", "-o", tmp_path) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "check.json").exists()


# -------------------------------------------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of odd kinds, some of them readable."""
    folder = tmp_path_factory.mktemp("odd")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.convert("L").save(folder / "grey.png")
    image.convert("P").save(folder / "palette.gif")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:400])
    (folder / "text.png").write_text("no image")
    return folder


@pytest.mark.parametrize("name", few(["model.f32.onnx", "model.f32.xml"], "model.f32.onnx"))
def test_predict_needs_neither_torch_nor_timm(name: str, place: Path, odd: Path) -> None:
    """In an interpreter of its own, where importing them fails."""
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'torchvision', 'onnx', 'nncf', 'scipy'): sys.modules[name] = None\n"
        "from tavt_kit.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["predict", place / "run" / "export" / name, odd / "grey.png", "--json", "--top", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    top = json.loads(done.stdout)["predictions"][0]["top"]
    assert len(top) == 2
    assert {entry["label"] for entry in top} < set(CLASSES)
    assert top[0]["probability"] >= top[1]["probability"]


def test_a_file_and_its_run_predict_the_same(place: Path, odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for thing, flags in (
        ("run/export/model.f32.onnx", ()),
        ("run/export/model.f32.xml", ()),
        ("run", ("--schedule", SCHEDULE)),
    ):
        images = (odd / "grey.png", odd / "palette.gif", odd / "cmyk.jpg")
        assert run("predict", place / thing, *images, "--json", *flags) == 0
        said = json.loads(capsys.readouterr().out)
        answers.append([[(top["label"], top["probability"]) for top in one["top"]] for one in said["predictions"]])
    for other in answers[1:]:
        for one, two in zip(answers[0], other, strict=True):
            assert [label for label, _ in one] == [label for label, _ in two]
            assert [share for _, share in one] == pytest.approx([share for _, share in two], abs=1e-4)
            assert sum(share for _, share in one) == pytest.approx(1.0, abs=1e-4)


def test_unreadable_images_are_named_and_counted(place: Path, odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = place / "run" / "export" / "model.f32.onnx"
    bad = [odd / "truncated.jpg", odd / "text.png", odd / "absent.png"]
    assert run("predict", model, *bad, odd / "grey.png") == 0
    said = capsys.readouterr()
    assert str(odd / "grey.png") in said.out
    lines = said.err.strip().splitlines()
    assert len(lines) == 4
    for line, path in zip(lines, bad, strict=False):
        assert str(path) in line
    assert "3 of 4 images could not be read" in lines[-1]
    assert run("predict", model, *bad) == 2


@pytest.mark.parametrize(
    ("thing", "flags", "said"),
    [
        ("run/export/model.f32.onnx", ("--schedule", "dense"), "frozen into it"),
        ("run/export/model.f32.xml", ("--target", "onnxruntime:cpu"), "cannot run model.f32.xml"),
        ("run/export/absent.onnx", (), "No such file"),
        ("data", (), "model.json"),
    ],
)
def test_predict_with_the_wrong_things(
    thing: str, flags: tuple[str, ...], said: str, place: Path, odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", place / thing, odd / "grey.png", *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]

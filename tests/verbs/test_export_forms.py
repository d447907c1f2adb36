"""Switchable files, several schedules over one weight file, narrower precisions: through the real command."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.artifact_card import read_metadata
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError
from tavt_kit.exporters.writer import Writer
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes import open_file
from tavt_kit.runtimes.on_openvino import openvino_core
from tests.verbs.command import run
from tests.verbs.tiny import write_images, write_run

PRESETS = {"fast": "9x4", "balanced": "14,11,8x2", "accurate": "17x4"}
ONNX = "model.switchable.f32.onnx"
FILES = [ONNX, pytest.param("model.switchable.f32.xml", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, a model in ``run``, and ``run/export`` holding it switchable as ONNX."""
    folder = tmp_path_factory.mktemp("forms")
    write_images(folder / "data")
    write_run(folder / "run")
    made(folder, ONNX)
    return folder


def made(place: Path, file: str) -> Path:
    """The switchable file of a format, exported where it is not there yet."""
    path = place / "run" / "export" / file
    if not path.exists():
        schedules = [flag for text in PRESETS.values() for flag in ("--schedule", text)]
        kind = "onnx" if path.suffix == ".onnx" else "openvino"
        assert export(place, "--switchable", *schedules, "--format", kind, "--no-compare-dense") == 0
    return path


def export(place: Path, *flags: object) -> int:
    return run("export", place / "run", "--data", place / "data", *flags)


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["file"]: entry for entry in read_record(folder / "exported.json", "exported")["artifacts"]}


# ----------------------------------------------------------------------------------------------- switchable


@pytest.mark.parametrize("file", FILES)
def test_a_switchable_file_is_checked_at_every_preset(place: Path, file: str) -> None:
    path = made(place, file)
    checks = read_record(path.with_name("check.json"), "check")["checks"]
    found = {one["artifact"]: one for one in checks if one["artifact"].startswith(file)}
    assert {name: one["verdict"] for name, one in found.items()} == {f"{file} ({name})": "PASS" for name in PRESETS}
    for name, text in PRESETS.items():
        counts = TokenSchedule.parse(text, TokenLayout(17, 4)).counts
        assert found[f"{file} ({name})"]["schedule"] == list(counts)
    card = read_metadata(path)
    assert {name: str(schedule) for name, schedule in card.presets.items()} == PRESETS
    assert str(card.schedule) == PRESETS["balanced"]
    assert entries(path.parent)[file]["status"] == "final"


@pytest.mark.parametrize("file", FILES)
def test_one_loaded_file_gives_torchs_logits_at_any_counts_and_batch(place: Path, file: str) -> None:
    model = load_model(place / "run")
    path = made(place, file)
    target = read_metadata(path).own_target(path)
    session = open_file(path, target, (17, 17, 17, 17))
    for batch, text in ((8, "9x4"), (1, "17,3x3"), (5, "dense"), (5, "taper:0.2"), (8, "12,2x3")):
        schedule = TokenSchedule.parse(text, TokenLayout(17, 4))
        images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = LeanViT(model, schedule).eval()(images).numpy()
        run_at = session.at(schedule.counts)
        np.testing.assert_allclose(run_at(images.numpy()), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert run_at.timer(images.numpy())() > 0
    # The first session still runs at its own counts.
    with torch.inference_mode():
        dense = LeanViT(model, model.dense_schedule).eval()(images).numpy()
    np.testing.assert_allclose(session(images.numpy()), dense, rtol=0, atol=1e-5 * np.abs(dense).max())


@pytest.mark.parametrize("file", FILES)
def test_counts_that_the_graph_cannot_run_are_refused(place: Path, file: str) -> None:
    path = made(place, file)
    target = TargetDevice("onnxruntime" if file.endswith("onnx") else "openvino", "cpu")
    session = open_file(path, target, (17, 17, 17, 17))
    for wrong, said in (((9, 10, 9, 9), "only 9 reach"), ((9, 9), "has 4 layers"), ((9, 9, 9, 1), "at least 2")):
        with pytest.raises(ScheduleError, match=said):
            session.at(wrong)
    with pytest.raises(ScheduleError, match="takes its token counts at run time; give `schedule`"):
        open_file(path, target)


@pytest.mark.parametrize("file", FILES)
def test_predict_and_eval_take_a_preset_or_a_schedule(
    place: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, image = made(place, file), place / "data" / "disc" / "0.png"
    said = []
    for thing, flags in (
        (path, ("--schedule", "fast")),
        (path, ("--schedule", "9x4")),
        (place / "run", ("--schedule", "9x4")),
        (path, ()),
        (place / "run", ("--schedule", PRESETS["balanced"])),
    ):
        assert run("predict", thing, image, "--json", *flags) == 0
        top = json.loads(capsys.readouterr().out)["predictions"][0]["top"]
        said.append([one["probability"] for one in top])
    assert said[0] == said[1]
    assert said[0] == pytest.approx(said[2], abs=1e-4)
    assert said[3] == pytest.approx(said[4], abs=1e-4)
    assert said[0] != pytest.approx(said[3], abs=1e-4)
    assert run("eval", path, "--data", place / "data", "--preset", "fast", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == "9x4"


@pytest.mark.parametrize(
    ("verb", "flags", "said"),
    [
        ("predict", ("--preset", "slow"), "presets fast, balanced, accurate, got 'slow'"),
        ("predict", ("--schedule", "20x4"), "the model has 17 tokens"),
        ("predict", ("--schedule", "9,9,9,1"), "at least 2"),
        ("predict", ("--schedule", "9x3"), "has 4 layers"),
        ("eval", ("--preset", "slow"), "got 'slow'"),
        ("check", ("--preset", "slow"), "got 'slow'"),
        ("check", ("--schedule", "9x3"), "has 4 layers"),
    ],
)
def test_a_schedule_outside_the_graphs_range_is_one_sentence(
    place: Path, tmp_path: Path, verb: str, flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "run" / "export" / ONNX
    others: tuple[object, ...] = {
        "predict": (place / "data" / "disc" / "0.png",),
        "eval": ("--data", place / "data"),
        "check": ("--against", place / "run", "--data", place / "data", "-o", tmp_path),
    }[verb]
    assert run(verb, path, *others, *flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.slow
def test_check_at_one_preset_or_at_all(place: Path, tmp_path: Path) -> None:
    path = place / "run" / "export" / ONNX
    flags = ("--against", place / "run", "--data", place / "data", "-o", tmp_path, "--no-compare-dense")
    for more, settings in ((("--schedule", "12x4"), ["12x4"]), ((), list(PRESETS))):
        assert run("check", path, *flags, *more) == 0
        checks = read_record(tmp_path / "check.json", "check")["checks"]
        assert [one["artifact"] for one in checks][-len(settings) :] == [f"{path.name} ({name})" for name in settings]


@pytest.mark.slow
def test_a_broken_preset_refuses_the_whole_file(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A graph that keeps one token fewer than it is told, but only where any is dropped."""
    write = Writer._write_onnx

    def off_by_one(self: Writer, card: Any, path: Path) -> None:
        write(self, card, path)
        model = onnx.load(str(path))
        for node in model.graph.node:
            node.input[:] = ["fewer" if name == "lengths" else name for name in node.input]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(17), "most"))
        less = onnx.helper.make_node("Less", ["lengths", "most"], ["less"])
        one = onnx.helper.make_node("Cast", ["less"], ["one"], to=onnx.TensorProto.INT64)
        for node in (onnx.helper.make_node("Sub", ["lengths", "one"], ["fewer"]), one, less):
            model.graph.node.insert(0, node)
        onnx.save(model, str(path))

    monkeypatch.setattr(Writer, "_write_onnx", off_by_one)
    flags = ("--switchable", "--schedule", "fast=9x4", "--schedule", "accurate=dense", "--format", "onnx")
    assert export(place, *flags, "-o", tmp_path, "--no-compare-dense") == 1
    checks = read_record(tmp_path / "check.json", "check")["checks"]
    assert [one["verdict"] for one in checks] == ["FAIL", "PASS"]
    assert {file.name for file in tmp_path.iterdir()} == {"check.json", "exported.json"}
    assert "not written" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- several schedules


@pytest.mark.slow
def test_several_schedules_have_a_file_each(place: Path, tmp_path: Path) -> None:
    flags = (*"--schedule taper:0.2 --schedule full=dense --format onnx --no-compare-dense -o".split(), tmp_path)
    assert export(place, *flags) == 0
    names = ("model.taper-0.2.f32.onnx", "model.full.f32.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {*names, "check.json", "exported.json"}
    image = place / "data" / "disc" / "0.png"
    assert run("predict", tmp_path / names[0], image) == 0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert export(place, *flags) == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_an_unproven_file_with_a_weight_file_is_checked_and_taken(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavt_kit.exporters.to_onnx.LARGEST", 1000)
    flags = ("--schedule", "taper:0.2", "--format", "onnx", "--precision", "f16", "-o", tmp_path)
    assert export(place, *flags) == 1
    file = tmp_path / "model.f16.onnx.unproven"
    weights = next(tmp_path.glob("*.weights"))
    again = ("check", file, "--against", place / "run", "--data", place / "data", "--no-compare-dense", "--drop", 100)
    assert run(*again) == 0
    assert {one.name for one in tmp_path.iterdir()} == {
        "model.f16.onnx", weights.name, "check.json", "exported.json"
    }  # fmt: skip
    card = read_metadata(tmp_path / "model.f16.onnx")
    assert (card.precision, card.weights_file) == ("f16", weights.name)
    opened = open_file(tmp_path / "model.f16.onnx", TargetDevice("onnxruntime", "cpu"))
    assert opened.target.precision == "f16"


# -------------------------------------------------------------------------------------------------- precisions


@pytest.mark.slow
def test_openvino_in_bf16(place: Path, tmp_path: Path) -> None:
    flags = ("--schedule", "dense", "--precision", "f32,bf16", "--max-drop", 100, "--no-compare-dense", "-o", tmp_path)
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert export(place, *flags) == 2
        return
    assert export(place, *flags) == 0
    sizes = {how: (tmp_path / f"model.{how}.bin").stat().st_size for how in ("f32", "bf16")}
    assert sizes["bf16"] < 0.6 * sizes["f32"]
    checks = {one["artifact"]: one for one in read_record(tmp_path / "check.json", "check")["checks"]}
    assert ":precision=bf16:" in checks["model.bf16.xml"]["executed"]
    assert ":precision=f32:" in checks["model.f32.xml"]["executed"]
    assert 1e-5 < checks["model.bf16.xml"]["largest_difference"] < 0.5 * checks["model.bf16.xml"]["scale"]


# --------------------------------------------------------------------------------------------------- bad input


def test_images_of_other_classes_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "other", classes=("disc", "square"))
    flags = ("--data", tmp_path / "other", "--schedule", "dense", "--precision", "int8", "-o", tmp_path / "out")
    assert run("export", place / "run", *flags) == 2
    assert "knows 3 classes" in (said := capsys.readouterr().err) and "has 2" in said
    assert not (tmp_path / "out").exists()


def test_too_little_space_is_refused_before_and_on_the_way(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert export(place, "--schedule", "dense", "-o", tmp_path) == 2
    assert "0 MB left" in capsys.readouterr().err
    monkeypatch.undo()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "_write_openvino", full)
    assert export(place, "--schedule", "dense", "-o", tmp_path) == 2
    assert "no space is left in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

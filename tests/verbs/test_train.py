"""``train``, ``distill`` and ``eval`` through the real command: the whole way on small images, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tavt_kit.models.timm_import import timm
from tests.verbs.command import run

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"blue": (30, 60, 170), "green": (40, 150, 50), "red": (170, 50, 40)}


def draw(root: Path, each: int = 15) -> Path:
    draws = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(each):
            noise = draws.integers(-30, 31, (40, 40, 3))
            Image.fromarray((noise + np.array(colour)).clip(0, 255).astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "probe"
    assert run("train", "test_vit", "--weights", "random", "--data", data, "--image-size", "64", "-o", out) == 0
    return out


def test_probe_finetune_distil_and_evaluate(
    probed: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = ("train", probed, "--recipe", "finetune", "--blocks", "2", "--steps", "2", "--batch", "4")
    assert run(*tuned, "--data", data, "-o", tmp_path / "tuned", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "done" and record["results"]["loop"]["steps"] == 2

    distil = ("distill", tmp_path / "tuned", "-o", tmp_path / "distilled", "--steps", "2", "--batch", "4")
    assert run(*distil, "--data", data, "--kl", "forward", "--augment", "flip,rotate") == 0
    shown = capsys.readouterr()
    assert "taper:0.4" in shown.out and "2 steps in" in shown.out
    assert "ladder after" in shown.err and not shown.out.startswith("{")
    assert run(*distil, "--kl", "forward", "--augment", "flip,rotate") == 0  # done; the data is the run's own
    assert "taper:0.4" in capsys.readouterr().out

    assert run("eval", tmp_path / "distilled", "--schedule", "taper:0.2", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["top1"]["split"] == "test" and figures["top1"]["n"] == 9
    assert np.array(figures["confusion"]).sum(1).tolist() == [3, 3, 3]
    assert np.trace(figures["confusion"]) == round(figures["top1"]["value"] * 9)
    assert figures["recall"]["red"]["value"] == figures["confusion"][2][2] / 3
    assert run("eval", tmp_path / "distilled", "--split", "val", "--limit", "6") == 0
    assert "(val, n=6)" in capsys.readouterr().out


@pytest.mark.slow
def test_an_exported_file_is_evaluated_as_its_run_is(
    probed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tavt_kit.checkpoints import load_model
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.exporters.to_onnx import to_onnx
    from tavt_kit.exporters.writer import describe

    model = load_model(probed)
    taper = TokenSchedule.taper(model.layout, 0.2)
    to_onnx(model, describe(model, taper), probed / "model.onnx")
    assert run("eval", probed, "--schedule", "taper:0.2", "--json") == 0
    ours = json.loads(capsys.readouterr().out)
    assert run("eval", probed / "model.onnx", "--json") == 0
    theirs = json.loads(capsys.readouterr().out)
    assert (theirs["confusion"], theirs["schedule"]) == (ours["confusion"], ours["schedule"])
    assert run("eval", probed / "model.onnx", "--schedule", "dense") == 2
    assert "frozen into it" in capsys.readouterr().err


def test_flags_reach_the_record(probed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--recipe tavt --bound 0.3 --lr 0.01 --sub-networks 3 --seed 4 --freeze 1 --steps 1 --batch 4 --json"
    assert run("distill", probed, "-o", tmp_path / "x", *flags.split()) == 0
    recipe = json.loads(capsys.readouterr().out)["asked"]
    assert (recipe["recipe"], recipe["bound"], recipe["lr"], recipe["sub_networks"]) == ("tavt", 0.3, 0.01, 3)
    assert (recipe["seed"], recipe["freeze"], recipe["optimiser"], recipe["layer_dropout"]) == (4, 1, "sgd", 0.2)
    assert run("distill", probed, "-o", tmp_path / "y", *flags.split(), "--dry-run") == 2
    assert "--dry-run is gone" in capsys.readouterr().err and not (tmp_path / "y").exists()


def test_unreadable_images_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tavt_kit.data import load_images

    damaged = tmp_path / "colours"
    shutil.copytree(data, damaged)
    images = load_images(str(damaged))
    train = ("train", "test_vit", "--weights", "random", "--data", damaged, "--image-size", "64")
    images.split("val")[0].path.write_bytes(b"no image")
    assert run(*train, "-o", tmp_path / "a") == 2
    assert images.split("val")[0].path.name in capsys.readouterr().err
    images.split("train")[0].path.write_bytes(b"no image")
    assert run(*train, "-o", tmp_path / "c") == 2
    said = capsys.readouterr().err
    assert str(images.split("train")[0].path) in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--data", "{empty}"), "has no class folders"),
        (("--data", "{zero}"), "no image"),
        (("--data", "{absent}"), "does not exist"),
        (("--data", "{single}"), "at least two classes"),
        (("--data", "{data}", "-o", "{file}/x"), "cannot write"),
        (("--data", "{data}", "--recipe", "magic"), "finetune, "),
        (("--data", "{data}", "--recipe", "finetune", "--batch", "1000"), "1 to 27"),
        (("--data", "{data}", "--recipe", "finetune", "--lr", "-1"), "learning rate"),
        (("--data", "{data}", "--recipe", "finetune", "--augment", "blur"), "blur"),
        (("--data", "{data}", "--precision", "int8"), "f32 or bf16 or f16"),
        (("--data", "{data}", "--recipe", "finetune", "--batch", "8", "--accumulation", "3"), "multiple of 3"),
        (("--data", "{data}", "--recipe", "finetune", "--metric", "recall[cow]"), "no class of the data"),
        (("--data", "{data}", "--recipe", "finetune", "--ema", "2"), "below 1"),
        (("--data", "{data}", "--save-every", "soon"), "soon"),
        ((), "--data"),
    ],
)
def test_bad_input_of_train_is_one_sentence(
    flags: tuple[str, ...], named: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for name in COLOURS:
        (tmp_path / "zero" / name).mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    draw(tmp_path / "all", 4)
    shutil.copytree(tmp_path / "all" / "red", tmp_path / "single" / "red")
    places = {"data": data, **{name: tmp_path / name for name in ("empty", "zero", "absent", "single", "file")}}
    filled = [flag.format(**places) for flag in flags]
    out = () if "-o" in filled else ("-o", tmp_path / "out")
    assert run("train", "test_vit", "--weights", "random", "--image-size", "64", *filled, *out) == 2
    said = capsys.readouterr()
    assert named in said.err and said.err.count("\n") == 1 and "Traceback" not in said.err and not said.out


def test_bad_weights_are_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of another architecture, a truncated one, a pickled object, and no checkpoint at all."""
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    torch.save(timm.create_model("test_vit2").state_dict(), tmp_path / "deeper.pth")
    torch.save({"model": Path("/")}, tmp_path / "pickled.pth")
    whole = (tmp_path / "deeper.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    save_file({"head.weight": torch.zeros(3, 64)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-8])
    (tmp_path / "nothing.pth").write_bytes(b"")
    for name in ("resnet.pth", "deeper.pth", "pickled.pth", "truncated.pth", "cut.safetensors", "nothing.pth"):
        out = tmp_path / f"out-{name}"
        assert run("train", "test_vit", "--weights", tmp_path / name, "--data", data, "-o", out) == 2, name
        said = capsys.readouterr()
        assert name in said.err and said.err.count("\n") == 1 and "Traceback" not in said.err, said.err
        assert not (out / "model.safetensors").exists()


def test_bad_input_of_distill_is_one_sentence(
    probed: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = draw(tmp_path / "other", 6)
    (tmp_path / "file").write_text("x")
    few = ("--steps", "1", "--batch", "4")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((probed, "-o", tmp_path / "a", "--data", other), "was made with colours"),
        ((probed, "-o", probed), "choose another --out"),
        ((probed, "-o", tmp_path / "file" / "x"), "cannot write"),
        ((tmp_path / "absent", "-o", tmp_path / "a"), "no run folder"),
        ((other, "-o", tmp_path / "a"), "model.json"),
        ((probed, "-o", tmp_path / "a", "--bound", "1.0"), "below 1"),
        ((probed, "-o", tmp_path / "a", "--kl", "up"), "reverse, forward"),
        ((probed, "-o", tmp_path / "a", "--freeze", "6"), "0 to 5"),
        ((probed, "-o", tmp_path / "a", "--temperature", "0"), "temperature"),
        ((probed, "-o", tmp_path / "a", "--score", "rank"), "column, cls"),
        ((probed, "-o", tmp_path / "a", "--recipe", "magic"), "modern, tavt"),
    ]
    for arguments, named in cases:
        assert run("distill", *arguments, *few) == 2, arguments
        said = capsys.readouterr()
        assert named in said.err and said.err.count("\n") == 1 and not said.out, said.err
    assert (
        run("train", "test_vit", "--weights", "random", "--data", data, "--image-size", "32", "-o", tmp_path / "b") == 0
    )
    capsys.readouterr()
    assert run("distill", probed, "-o", tmp_path / "b", *few) == 2
    assert "holds a train run" in capsys.readouterr().err
    assert run("distill", probed, "-o", tmp_path / "c", *few) == 0
    capsys.readouterr()
    assert run("distill", tmp_path / "b", "-o", tmp_path / "c", *few) == 2
    assert "start_sha256" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_continued_gives_the_same_file(probed: Path, tmp_path: Path) -> None:
    """kill -9 at whatever step it is in, twice, through real processes."""

    def command(out: Path) -> list[str]:
        flags = ["--steps", "24", "--batch", "4", "--lr", "1e-3", "--save-every", "0.001", "--precision", "f32"]
        flags += ["--accumulation", "2", "--ema", "0.9", "--evaluate-every", "4", "--metric", "loss"]
        return [sys.executable, str(ROOT / "cli.py"), "distill", str(probed), "-o", str(out), *flags]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "straight"), check=True, capture_output=True, env=environment)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    for lines in (5, 13):
        process = subprocess.Popen(
            command(tmp_path / "broken"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    subprocess.run(command(tmp_path / "broken"), check=True, capture_output=True, env=environment)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "broken"))
    assert first == second
    assert metrics.read_text().count("\n") == 24

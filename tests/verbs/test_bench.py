from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tavt_kit.bench import Protocol
from tavt_kit.runtimes.session import Images
from tavt_kit.runtimes.torch_session import TorchSession
from tests.parameters import few
from tests.runtimes.models import write_linear
from tests.verbs.command import run
from tests.verbs.tiny import write_run

TINY = ("vit_tiny_patch16_224", "--weights", "random", "--image-size", "32")
QUICK = ("--min-time", "0.02", "--max-time", "0.1s")


@pytest.mark.slow
def test_schedules_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedules = ("--schedule", "dense", "--schedule", "5x4,3x8")
    assert (
        run("bench", *TINY, *schedules, "--target", "torch:cpu:threads=1", *QUICK, "-o", str(tmp_path), "--json") == 0
    )
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "bench.json").read_text())
    assert printed["schema"] == written["schema"] == "fgvc-kit/bench"
    dense, dropped = written["candidates"]
    assert (dense["schedule"], dropped["schedule"]) == ([5] * 12, [5] * 4 + [3] * 8)
    assert dropped["macs"] < dense["macs"] and dropped["gain_share"]["value"] > 0
    assert dense["target"]["threads"] == 1 and written["inputs"] == "random" and written["host"]["cpu"]
    assert len(dense["latency_ms"]["samples"]) >= 3 and dense["latency_ms"]["first_ms"] > 0
    assert dense["gflops"] == pytest.approx(2e-9 * dense["macs"] * dense["throughput"])
    assert "bootstrap" in written["pairing"]["interval"] and written["noise"]["word"] in ("steady", "unsteady")
    assert dense["ratio"]["says"] == "reference" and dropped["ratio"]["says"] in ("faster", "slower", "INCONCLUSIVE")


def test_files_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b[red]"):
        write_linear(tmp_path / f"{name}.onnx")
    files = (str(tmp_path / "a.onnx"), str(tmp_path / "b[red].onnx"))
    targets = ("--target", "onnxruntime:cpu:threads=1", "--target", "openvino:cpu:threads=1", "--target", "torch:cpu")
    assert run("bench", *files, *targets, *QUICK) == 0
    out = capsys.readouterr().out
    assert "b[red].onnx" in out and "speed is against a.onnx on onnxruntime" in " ".join(out.split())
    rows = json.loads((tmp_path / "bench.json").read_text())["candidates"]
    assert [one["name"] for one in rows] == [
        f"{n}.onnx on {r}" for n in ("a", "b[red]") for r in ("onnxruntime", "openvino")
    ]
    # How many cores were busy is the machine's; nothing else is to be doubted of them.
    assert all("cores were busy" in doubt for one in rows for doubt in one["doubts"]) and "busy_cores" in rows[0]


@pytest.mark.slow
def test_the_same_thing_twice_gets_two_names(tmp_path: Path) -> None:
    write_linear(tmp_path / "a.onnx")
    path = str(tmp_path / "a.onnx")
    assert run("bench", path, path, path, *QUICK) == 0
    names = [one["name"] for one in json.loads((tmp_path / "bench.json").read_text())["candidates"]]
    assert names == [f"{tmp_path.name}/a.onnx{number}" for number in ("", " #2", " #3")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("no_such_model", "--weights", "random"), "no_such_model"),
        (("vit_tiny_patch16_224", "--weights", "random", "--target", "torch:tpu"), "cpu or cuda"),
        (("vit_tiny_patch16_224", "--weights", "random", "--target", "openvino:npu"), "needs OpenVINO device NPU.0"),
        (("absent.onnx",), "there is no model file absent.onnx"),
        ((*TINY, "--target", "torch:cpu", "--schedule", "3x4,5x8"), "keeps 5 tokens"),
        ((*TINY, "--target", "torch:cpu", "--schedule", "5x4"), "12 layers"),
        ((*TINY, "--target", "torch:cpu:precision=f32", "--precision", "bf16"), "given twice"),
        ((*TINY, "--max-time", "soon"), "90s"),
        ((*TINY, "--batch", "1,none"), "--batch is whole numbers with commas between them"),
        ((*TINY, "--target", "torch:cpu:batch=2", "--batch", "1,8"), "batch is given twice"),
        ((*TINY, "--target", "torch:cpu", "--threads", "4096"), "this process may use"),
        ((*TINY, "--target", "torch:cpu:mode=graph"), "choose torch:cuda"),
        ((*TINY, "--precision", "f32,,bf16"), "choose f32, f16, bf16 or int8"),
        ((*TINY, "--budget", "top1=84%"), "measures no accuracy"),
        (("profile", *TINY, "--target", "torch:cpu:mode=compile"), "usual mode only"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    verb = () if arguments[0] == "profile" else ("bench",)
    assert run(*verb, *arguments, "-o", str(tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "out" / "bench.json").exists()


@pytest.mark.parametrize(("most", "says"), few([(2, "a batch of 2 fits"), (0, "when")], (0, "when")))
def test_memory_that_runs_out_is_one_sentence_with_the_batch_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], most: int, says: str
) -> None:
    def hungry(session: TorchSession, images: Images) -> Any:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return np.zeros((len(images), 3))

    monkeypatch.setattr(TorchSession, "timer", lambda session, images: lambda: hungry(session, images))
    monkeypatch.setattr(TorchSession, "__call__", hungry)
    if not most:
        monkeypatch.setattr(TorchSession, "__init__", lambda *given: hungry(given[0], np.zeros(1)))
    model = write_run(tmp_path / "run")
    assert run("bench", model, "--target", "torch:cpu:threads=1:batch=8", "-o", tmp_path / "out", *QUICK) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "memory ran out" in error and says in error and "batch" in error


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("bench", *TINY, "-o", str(tmp_path / "file" / "out")) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("short_series")
def test_profile_of_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Protocol(min_seconds=0.0, max_seconds=0.2, min_runs=2, visit_seconds=0.0, warmup_seconds=0.01)
    monkeypatch.setattr("tavt_kit.bench.latency_table.BRIEF", hasty)
    arguments = ("--target", "torch:cpu:threads=1", "--held-out", "2", "--max-time", "1s", "-o", str(tmp_path))
    assert run("profile", *TINY, *arguments) == 0
    out = capsys.readouterr().out
    assert "mean error" in out and "predicted ms" in out
    record = json.loads((tmp_path / "profile.json").read_text())
    assert record["schema"] == "fgvc-kit/profile" and len(record["held_out"]) == 2
    assert record["model"] == "vit_tiny_patch16_224" and record["target"]["threads"] == 1


def test_profile_refuses_a_target_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", *TINY, "--target", "openvino:gpu") == 2
    assert "this machine has CPU" in capsys.readouterr().err

"""``fgvc-kit bench`` with sweeps, budgets and images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes.models import write_linear
from tests.verbs.command import run

TINY = ("vit_tiny_patch16_224", "--weights", "random", "--image-size", "32")
QUICK = ("--min-time", "0.02", "--max-time", "0.1s")
ONNX = ("--target", "onnxruntime:cpu:threads=1")


def candidates(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "bench.json").read_text())["candidates"]
    return found


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name in ("a", "b"):
        write_linear(tmp_path / f"{name}.onnx")
    return str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")


@pytest.mark.slow
def test_every_combination_is_one_candidate_of_the_one_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = ("--target", "torch:cpu", "--batch", "1,2", "--threads", "1", "--image-size", "32,48", "--schedule")
    with caplog.at_level(logging.WARNING, "tavt_kit"):
        assert run("bench", TINY[0], "--weights", "random", *given, "taper:0.1", *QUICK, "-o", tmp_path) == 0
    found = candidates(tmp_path)
    assert [one["name"] for one in found] == [
        f"vit_tiny_patch16_224 taper:0.1 batch={batch} {size}px" for size in (32, 48) for batch in (1, 2)
    ]
    assert found[1]["target"]["batch"] == 2 and found[2]["image_size"] == [48, 48]
    assert not caplog.records


def test_budgets_decide_the_exit_code(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", *files, *ONNX, *QUICK, "--budget", "size=1MB", "--budget", "throughput=1/s") == 0
    assert "a.onnx: size=1MB PASS" in " ".join(capsys.readouterr().out.split())
    assert run("bench", *files, *ONNX, *QUICK, "--budget", "latency[p50]=1us") == 1
    assert "b.onnx: latency[p50]=0.001ms FAIL" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_candidates_may_be_of_different_classes(tmp_path: Path, files: tuple[str, str]) -> None:
    write_linear(tmp_path / "c.onnx", classes=7)
    assert run("bench", files[0], tmp_path / "c.onnx", *ONNX, *QUICK, "-o", tmp_path / "out") == 0


def test_a_size_that_the_export_fixed_stays(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", files[0], *ONNX, "--image-size", "64", *QUICK) == 2
    assert "takes 32x32 images, got --image-size 64" in capsys.readouterr().err


@pytest.mark.slow
def test_the_memory_of_a_file_is_measured_and_a_live_model_says_to_export(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--target", "onnxruntime:cpu:threads=1", *QUICK, "--budget", "memory=20GB", "-o", tmp_path)
    assert run("bench", files[0], *TINY, *given) == 1
    file, live = candidates(tmp_path)
    assert file["memory"]["peak"] > 10e6 and live["memory"]["peak"] is None
    out = " ".join(capsys.readouterr().out.split())
    assert "memory=20GB PASS" in out and "no memory: peak memory is measured of exported files" in out
    assert "memory=20GB INCONCLUSIVE" in out

"""Peak memory in fresh processes, and what a process that dies leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tavt_kit.bench import memory
from tavt_kit.bench.memory import FileJob, MemoryPeak, peak_memory
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import MeasurementError
from tests.runtimes.models import write_linear

ONNX = TargetDevice.parse("onnxruntime:cpu:threads=1")
MIB = 2**20


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> MemoryPeak:
    """What is said of a child that does something else."""
    monkeypatch.setattr(memory, "_CHILD", ("-S", "-c", code))
    return peak_memory(FileJob(Path("x.onnx"), ONNX), seconds=20)


def test_a_process_that_dies_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = instead(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert killed.peak is None and killed.added is None and "memory runs out" in killed.reason
    assert "SIGSEGV" in instead(monkeypatch, "import os; os.kill(os.getpid(), 11)").reason
    assert instead(monkeypatch, "raise ValueError('odd')").reason.endswith("exit code 1: ValueError: odd")
    monkeypatch.setattr(memory, "_CHILD", ("-S", "-c", "import time; time.sleep(60)"))
    assert "after 0.2 s" in peak_memory(FileJob(Path("x.onnx"), ONNX), seconds=0.2).reason


def test_a_peak_survives_json() -> None:
    peak = MemoryPeak(10 * 10**6, 20 * 10**6, 35 * 10**6)
    record = json.loads(json.dumps(peak.as_record()))
    assert record["added"] == 25 * 10**6 and MemoryPeak.from_record(record) == peak


def write_expanding(path: Path, rows: int) -> None:
    """An ONNX file that is small, but in running holds rows x 3072 floats at once."""
    flat = helper.make_node("Flatten", ["images"], ["flat"])
    wide = helper.make_node("Expand", ["flat", "shape"], ["wide"])
    sines = helper.make_node("Sin", ["wide"], ["sines"])
    total = helper.make_node("ReduceMax", ["sines"], ["logits"], axes=[0], keepdims=1)
    graph = helper.make_graph(
        [flat, wide, sines, total],
        "expanding",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3072])],
        [numpy_helper.from_array(np.array([rows, 3072], np.int64), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.slow
def test_the_peak_is_that_of_the_inference(tmp_path: Path) -> None:
    write_expanding(tmp_path / "large.onnx", rows=96 * MIB // 4 // 3072)
    peak = peak_memory(FileJob(tmp_path / "large.onnx", ONNX, (32, 32)))
    assert peak.reason == "" and peak.baseline is not None and peak.loaded is not None and peak.added is not None
    assert 15 * MIB < peak.baseline < 200 * MIB  # no torch in it
    assert peak.loaded - peak.baseline < 60 * MIB < 90 * MIB < peak.added < 1024 * MIB


@pytest.mark.slow
def test_a_small_model_costs_little(tmp_path: Path) -> None:
    write_linear(tmp_path / "small.onnx")
    peak = peak_memory(FileJob(tmp_path / "small.onnx", ONNX))
    assert peak.reason == "" and peak.added is not None and 0 <= peak.added < 40 * MIB


@pytest.mark.slow
def test_a_file_is_run_without_torch(tmp_path: Path) -> None:
    write_linear(tmp_path / "small.onnx")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('torch was imported')\n", encoding="ascii")
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path))
        assert peak_memory(FileJob(tmp_path / "small.onnx", ONNX)).reason == ""


@pytest.mark.slow
def test_a_known_error_is_a_sentence(tmp_path: Path) -> None:
    assert "there is no model file" in peak_memory(FileJob(tmp_path / "none.onnx", ONNX)).reason


def test_the_child_is_this_interpreter_with_this_package(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, tavt_kit, json; print(json.dumps({'error': sys.executable + tavt_kit.__file__}))"
    import tavt_kit

    assert instead(monkeypatch, code).reason == f"{sys.executable}{tavt_kit.__file__}"


def test_a_system_without_getrusage_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows is: neither /proc, nor the module, nor the name of a signal."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(MeasurementError, match="Linux and macOS alone"):
        memory.memory_mark("VmHWM")
    monkeypatch.delattr("signal.SIGKILL")
    monkeypatch.setattr(memory, "_CHILD", ("-c", "raise SystemExit(3)"))
    assert memory._answer({}, 30.0) == {"error": "the process ended with exit code 3: nothing said"}

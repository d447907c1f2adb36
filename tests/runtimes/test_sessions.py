"""The contract of sessions: the same logits as torch, whatever runs them, and a clock that measures one inference."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from tavt_kit.core.device import TargetDevice, available_threads
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, ExportError, MissingDependency, TargetError
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes import available, check_available, on_openvino, open_file, open_module
from tavt_kit.runtimes.available import accelerator_name
from tavt_kit.runtimes.on_openvino import convert_module, executed_precision, openvino_core
from tavt_kit.runtimes.session import Session
from tests.runtimes.models import SHAPE, SIZE, images, tiny_vit, write_linear

HAS_BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")


def test_a_conversion_reports_to_nobody(lean: LeanViT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reports are sent by forked processes, which would also disturb a measurement."""
    forked: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forked.append(0) or fork())
    convert_module(lean, (torch.randn(2, 3, SIZE, SIZE),), [(-1, 3, SIZE, SIZE)])
    assert not forked
    assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)


def target(text: str) -> TargetDevice:
    return TargetDevice.parse(text)


@pytest.fixture(scope="module")
def lean() -> LeanViT:
    return LeanViT(tiny_vit(), TokenSchedule((17, 11, 6)))


@pytest.fixture(scope="module")
def wanted(lean: LeanViT) -> np.ndarray:
    with torch.inference_mode():
        return lean(torch.from_numpy(images(3))).numpy()


@pytest.fixture(scope="module")
def xml(lean: LeanViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = convert_module(lean, (torch.randn(2, 3, SIZE, SIZE),), [(-1, 3, SIZE, SIZE)])
    path = tmp_path_factory.mktemp("openvino") / "m.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("torch:cpu:threads=1", 1e-6),
        ("openvino:cpu:threads=1", 1e-4),
        pytest.param("torch:cpu:threads=1:precision=bf16", 0.3, marks=needs_bf16),
    ],
)
def test_a_module_gives_torchs_logits_at_any_batch(
    lean: LeanViT, wanted: np.ndarray, text: str, tolerance: float
) -> None:
    session: Session = open_module(lean, target(text), SHAPE)
    for batch in (1, 3):
        found = session(images(3)[:batch])
        assert found.dtype == np.float32 and found.shape == (batch, 5)
        error = np.abs(found - wanted[:batch]).max()
        assert error <= tolerance
        # Half precision that changes nothing would be float32 under another name.
        assert error > 1e-4 or "bf16" not in text
    assert str(session.target).startswith(text) and session.load_ms > 0
    assert session.input_shape == (None, 3, SIZE, SIZE) and getattr(session, "pixels", None) is None  # prepared outside
    assert session.timer(images(1))() > 0


class Gate(nn.Module):
    """Logits that depend on the mode, so that a forgotten eval() shows."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.linear = nn.Linear(3 * SIZE * SIZE, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.linear(x.flatten(1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text", ["torch:cpu:threads=1", "torch:cpu:threads=1:precision=bf16", "openvino:cpu:threads=1"]
)
def test_the_module_stays_as_it_was_and_runs_in_eval_mode(text: str) -> None:
    gate = Gate().train()
    found = open_module(gate, target(text), SHAPE)(images(2))
    assert gate.training and gate.drop.training and gate.linear.weight.dtype == torch.float32
    with torch.inference_mode():
        wanted = gate.linear(torch.from_numpy(images(2)).flatten(1)).numpy()
    assert np.abs(found - wanted).max() < (0.05 if "bf16" in text else 1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_says_the_threads_that_were_asked_for(
    runtime: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "openvino" and threads > available_threads():
        pytest.skip("OpenVINO takes no more threads than the process has CPUs")
    monkeypatch.setattr("tavt_kit.runtimes.available.available_threads", lambda: 2)  # wherever this runs
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 5)).eval()
    session = open_module(module, target(f"{runtime}:cpu:threads={threads}"), SHAPE)
    assert getattr(session, "told_threads", None) == threads


def test_torch_threads_are_set_during_the_call_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tavt_kit.runtimes.available.available_threads", lambda: 2)  # wherever this runs
    seen = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            assert torch.is_inference_mode_enabled()
            return x.flatten(1)[:, :2]

    before = torch.get_num_threads()
    session = open_module(Spy().eval(), target("torch:cpu:threads=2"), SHAPE)
    session(images(1))
    session.timer(images(1))()
    assert seen == [2, 2] and torch.get_num_threads() == before


def test_the_clock_measures_the_inference_in_milliseconds() -> None:
    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.05)
            return x.flatten(1)[:, :2]

    run = open_module(Slow().eval(), target("torch:cpu:threads=1"), SHAPE).timer(images(1))
    assert 50 <= run() < 500


@needs_bf16
def test_openvinos_precision_is_read_from_the_graph_not_believed(xml: Path, wanted: np.ndarray) -> None:
    core = openvino_core()
    silently = core.compile_model(core.read_model(xml), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    assert executed_precision(silently) == "bf16"  # what happens to those who do not set it
    for precision, least, most in (("f32", 0.0, 1e-4), ("bf16", 1e-4, 0.3)):
        session = open_file(xml, target(f"openvino:cpu:threads=1:precision={precision}"))
        assert session.target.precision == precision
        assert least <= np.abs(session(images(3)) - wanted).max() <= most


def test_a_module_openvino_cannot_convert_is_refused_in_a_sentence() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(x[:, 0]).real

    with pytest.raises(ExportError, match="OpenVINO cannot convert Odd"):
        open_module(Odd().eval(), target("openvino:cpu"), SHAPE)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("openvino:cpu:precision=int8", "int8 needs an exported, calibrated file"),
        ("openvino:npu", "this machine has CPU"),
        ("openvino:gpu:3", "this machine has CPU"),
        ("torch:cpu:threads=4096", "this process may use"),
    ],
)
def test_what_a_module_cannot_run_on(lean: LeanViT, text: str, sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        open_module(lean, target(text), SHAPE)


def test_absent_devices_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for text in ("torch:cuda", "torch:cuda:1"):
        with pytest.raises(TargetError, match="sees none; choose torch:cpu") as refused:
            check_available(target(text))
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_available(target("torch:cuda:0"))
    with pytest.raises(TargetError, match="names CUDA device 1"):
        check_available(target("torch:cuda:1"))


def test_a_gpu_is_named_with_its_slice_and_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H100 MIG 1g.10gb")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert accelerator_name(target("torch:cuda")) == "NVIDIA H100 MIG 1g.10gb"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert accelerator_name(target("torch:cuda:3")) == "NVIDIA H100 MIG 1g.10gb, number 3 of 8 counted from 0"
    assert accelerator_name(target("torch:cpu")) is None


@pytest.mark.parametrize("text", ["openvino:cpu", "torch:cpu", "torch:cuda"])
def test_a_runtime_that_is_absent_or_broken_is_one_sentence(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError(f"lib{name}.so: cannot open shared object file")

    monkeypatch.setattr(available, "import_module", broken)
    with pytest.raises(MissingDependency, match=r"cannot open shared object file\); install it .pip install"):
        check_available(target(text))


def test_more_threads_than_the_process_may_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "available_threads", lambda: 1)
    check_available(target("torch:cpu:threads=1"))
    with pytest.raises(TargetError, match="asks for 2 threads, but this process may use 1 CPU .by its affinity"):
        check_available(target("torch:cpu:threads=2"))


@pytest.mark.parametrize(
    ("able", "precision", "instead"),
    [(["FP32", "BF16", "INT8"], "f16", "bf16"), (["FP32", "INT8"], "f16", "f32"), (["FP32", "INT8"], "bf16", "f32")],
)
def test_a_precision_the_cpu_lacks_says_what_would_run(
    able: list[str], precision: str, instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        available_devices = ["CPU"]

        def get_property(self, *names: str) -> list[str]:
            return able

    monkeypatch.setattr(on_openvino, "openvino_core", Core)
    with pytest.raises(
        TargetError, match=f"cannot compute in {precision} .OpenVINO would silently run {instead} instead"
    ):
        check_available(target(f"openvino:cpu:precision={precision}"))


def test_an_onnx_file_runs_and_decides_its_precision(tmp_path: Path) -> None:
    for name, precision, made in (
        ("f32", "f32", {}),
        ("f16", "f16", {"half": True}),
        ("int8", "int8", {"quantized": True}),
    ):
        path = tmp_path / f"{name}.onnx"
        weights = write_linear(path, **made)
        session = open_file(path, target("onnxruntime:cpu:threads=1"))
        assert session.target.precision == precision and session.input_shape == (None, 3, SIZE, SIZE)
        wanted = images(2).reshape(2, -1) @ weights.astype(np.float32)
        assert np.abs(session(images(2)) - wanted).max() < (1e-4 if name == "f32" else 0.2)
        assert session.timer(images(1))() > 0
    with pytest.raises(TargetError, match="fixed by its export: f32.onnx is f32"):
        open_file(tmp_path / "f32.onnx", target("onnxruntime:cpu:precision=int8"))


def test_an_openvino_file_runs(xml: Path, wanted: np.ndarray) -> None:
    session = open_file(xml, target("openvino:cpu:threads=1"))
    assert np.abs(session(images(3)) - wanted).max() < 1e-4
    assert np.abs(session(images(3)[2:]) - wanted[2:]).max() < 1e-4
    assert session.target.precision == "f32" and session.input_shape == (None, 3, SIZE, SIZE)
    with pytest.raises(TargetError, match="not quantised"):
        open_file(xml, target("openvino:cpu:precision=int8"))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx")
    for name in ("broken.onnx", "broken.xml"):
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(DataError, match="broken"):
            open_file(tmp_path / name, target("openvino:cpu" if name.endswith("xml") else "onnxruntime:cpu"))
    with pytest.raises(DataError, match="no model file"):
        open_file(tmp_path / "absent.onnx", target("onnxruntime:cpu"))
    with pytest.raises(TargetError, match="choose openvino"):
        open_file(tmp_path / "m.xml", target("onnxruntime:cpu"))
    with pytest.raises(TargetError, match="ends in .onnx or .xml"):
        open_file(tmp_path / "m.pt", target("torch:cpu"))
    with pytest.raises(DataError, match=r"takes images of shape \(any, 3, 32, 32\), got \(1, 3, 16, 16\)"):
        open_file(tmp_path / "m.onnx", target("onnxruntime:cpu"))(images(1)[:, :, ::2, ::2])


def test_files_open_without_torch(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx")
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from tavt_kit.runtimes import open_file; from tavt_kit.core.device import TargetDevice\n"
        "x = np.ones((2, 3, 32, 32), np.float32)\n"
        "for text in ('onnxruntime:cpu', 'openvino:cpu'):\n"
        "    open_file(Path(sys.argv[1]), TargetDevice.parse(text))(x)\n"
        "assert not {'torch', 'timm', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.onnx")], check=True)


@pytest.mark.slow
def test_a_signal_after_sessions_that_went_in_another_order_is_only_a_signal() -> None:
    """A core of each session's own would leave a signal stack that is gone: see ``openvino_core``."""
    code = """
import gc, os, signal, sys
import torch
from tavt_kit.core.device import TargetDevice
from tavt_kit.runtimes import open_module
target = TargetDevice.parse("openvino:cpu:threads=1")
first, second = (open_module(torch.nn.Flatten(), target, (2, 3, 4, 4)) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
try:
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 7

"""Peaks: of made-up products whose speed is known, and the real products against numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tavt_kit.bench import peaks
from tavt_kit.bench.peaks import Peaks, measure_peaks
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import MeasurementError

CPU = TargetDevice.parse("torch:cpu:threads=1")


def in_turn(*times: float) -> object:
    """A clock that shows these times, then the last one for ever."""
    left = list(times)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_the_fastest_runtime_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        ("torch", "f32", in_turn(9000.0, 4.0, 2.0, 4.0)),
        ("openvino", "f32", lambda: 1.0),
        ("torch", "bf16", in_turn(9000.0, 4.0, 0.5, 4.0)),
    ]
    monkeypatch.setattr(peaks, "products", lambda target, size, runtimes: iter(made))
    monkeypatch.setattr(peaks, "_copy", lambda target: (lambda: 500.0, 4 * 10**9))
    found = measure_peaks(CPU, seconds=0, size=100)
    assert found == Peaks(
        "cpu", 1, pytest.approx({"f32": 2.0, "bf16": 4.0}), {"f32": "openvino", "bf16": "torch"}, 100, 8.0
    )
    assert Peaks.from_record(json.loads(json.dumps(found.as_record()))) == found


def test_nothing_to_multiply_by_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError, match="none of openvino"):
        measure_peaks(TargetDevice.parse("torch:cuda:0"), runtimes=("openvino",), size=8)


def test_the_graphs_multiply() -> None:
    """OpenVINO's, in the precision that it says."""
    from tavt_kit.runtimes.on_openvino import compile_for

    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((64, 64), dtype=np.float32) for _ in range(2))
    wanted = left @ right.T
    for int8, most in ((False, 1e-4), (True, 0.4)):
        compiled = compile_for(peaks._openvino_graph(left.shape, right, int8=int8), CPU)
        error = np.abs(compiled([left])[0] - wanted).mean()
        assert error < most and (error > 0.01) == int8


def test_every_runtime_offers_what_the_processor_can() -> None:
    found = {
        (runtime, precision) for runtime, precision, _ in peaks.products(CPU, 32, ("torch", "openvino", "nothing"))
    }
    assert {("torch", "f32"), ("openvino", "f32")} <= found


@pytest.mark.slow
def test_this_machines_own() -> None:
    found = measure_peaks(CPU, seconds=0.2, size=256)
    assert found.gflops["f32"] > 0.1 and set(found.by) == set(found.gflops) and found.threads == 1
    assert found.copy_gbs is None


@pytest.mark.gpu
def test_a_gpus_own() -> None:
    found = measure_peaks(TargetDevice.parse("torch:cuda:0"), seconds=0.5, size=2048)
    assert found.processor == "cuda:0" and found.threads is None
    assert found.gflops["bf16"] > 10 and found.copy_gbs is not None and found.copy_gbs > 10

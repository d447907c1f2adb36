"""The runtimes' other modes: compiled, recorded as a CUDA graph, many requests in flight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import TargetError
from tavt_kit.models.wrap import LeanViT
from tavt_kit.runtimes import open_file, open_module
from tavt_kit.runtimes.on_openvino import Burst
from tests.runtimes.models import SHAPE, images, tiny_vit, write_linear


def lean() -> LeanViT:
    model = tiny_vit()
    return LeanViT(model, TokenSchedule.parse("17x1,9x2", model.layout))


def test_many_requests_in_flight_answer_alike_and_each_has_its_latency(tmp_path: Path) -> None:
    weights = write_linear(tmp_path / "a.onnx")
    session = open_file(tmp_path / "a.onnx", TargetDevice.parse("openvino:cpu:threads=1:hint=throughput"))
    np.testing.assert_allclose(session(images()), images().reshape(1, -1) @ weights, atol=1e-4)
    assert session.classes == 4 and session.compile_ms is not None and session.compile_ms < session.load_ms
    run = session.timer(images())
    assert isinstance(run, Burst) and run.in_flight >= 1 and run.streams >= 1
    assert run() > 0 and len(run.latencies) == 8 * run.in_flight and min(run.latencies) > 0


def test_one_inference_at_a_time_is_no_burst(tmp_path: Path) -> None:
    write_linear(tmp_path / "a.onnx")
    session = open_file(tmp_path / "a.onnx", TargetDevice.parse("openvino:cpu:threads=1"))
    assert not isinstance(session.timer(images()), Burst)
    assert open_file(tmp_path / "a.onnx", TargetDevice.parse("onnxruntime:cpu:threads=1")).compile_ms is None


def test_a_module_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object, **more: object) -> object:
        raise RuntimeError("no compiler\nand so on")

    monkeypatch.setattr(torch, "compile", lambda module, **how: broken)
    with pytest.raises(TargetError, match="cannot compile LeanViT here: no compiler; choose mode=eager"):
        open_module(lean(), TargetDevice.parse("torch:cpu:threads=1:mode=compile"), SHAPE)


@pytest.mark.slow
def test_compiled_it_answers_as_it_is() -> None:
    module = lean()
    plain = open_module(module, TargetDevice.parse("torch:cpu:threads=1"), SHAPE)
    session = open_module(module, TargetDevice.parse("torch:cpu:threads=1:mode=compile"), SHAPE)
    np.testing.assert_allclose(session(images()), plain(images()), atol=1e-5)
    assert session.compile_ms is not None and 100 < session.compile_ms <= session.load_ms
    run = session.timer(images())
    assert max(run() for _ in range(5)) < session.compile_ms / 2  # compiled once, whatever the way it is called

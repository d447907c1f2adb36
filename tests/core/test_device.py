from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tavt_kit.core.device import RUNTIMES, ControlGroup, TargetDevice, available_threads
from tavt_kit.errors import TargetError


@st.composite
def targets(draw: st.DrawFn) -> TargetDevice:
    runtime = draw(st.sampled_from(sorted(RUNTIMES)))
    facts = RUNTIMES[runtime]
    processor = draw(st.sampled_from(facts.processors))
    on_cpu = processor == "cpu"
    return TargetDevice(
        runtime,
        processor,
        0 if on_cpu else draw(st.integers(0, 7)),
        draw(st.none() | st.integers(1, 64)) if on_cpu else None,
        draw(st.sampled_from(facts.precisions)),
        draw(st.integers(1, 128)),
        draw(st.sampled_from(["", *(mode for mode, processors in facts.modes.items() if processor in processors)])),
    )


@given(targets())
def test_text_and_record_give_the_same_target_back(target: TargetDevice) -> None:
    assert TargetDevice.parse(str(target)) == target
    assert TargetDevice.from_record(target.as_record()) == target


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("openvino:cpu:threads=2:precision=f32:batch=1", "openvino:cpu:threads=2:precision=f32:batch=1"),
        ("onnxruntime:cpu", "onnxruntime:cpu:precision=f32:batch=1"),
        ("torch:cuda", "torch:cuda:0:precision=f32:batch=1"),
        ("torch:cuda:1:precision=bfloat16", "torch:cuda:1:precision=bf16:batch=1"),
        ("onnxruntime:tensorrt:batch=8:precision=fp16", "onnxruntime:tensorrt:0:precision=f16:batch=8"),
        ("openvino:npu:precision=INT8", "openvino:npu:0:precision=int8:batch=1"),
        ("openvino:cpu:precision=f32:precision=fp32", "openvino:cpu:precision=f32:batch=1"),
        ("torch:cpu:mode=eager", "torch:cpu:precision=f32:batch=1"),
        ("torch:cuda:mode=graph:batch=8", "torch:cuda:0:precision=f32:batch=8:mode=graph"),
    ],
)
def test_spellings(text: str, canonical: str) -> None:
    assert str(TargetDevice.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tvm:cpu", "torch, onnxruntime, openvino"),
        ("torch", "cpu or cuda"),
        ("torch:tpu", "cpu or cuda"),
        ("torch:cpu:1", "no index"),
        ("torch:cuda:-1", "RUNTIME:PROCESSOR"),
        ("torch:cuda:threads=2", "CPU only"),
        ("torch:cpu:precision=int8", "f32, f16 or bf16"),
        ("openvino:cpu:precision=f8", "f32, f16, bf16 or int8"),
        ("openvino:cpu:precision=f32:precision=bf16", "given twice, as f32 and bf16"),
        ("openvino:cpu:threads=0", "at least 1"),
        ("openvino:cpu:threads=two", "whole number"),
        ("openvino:cpu:batch=1.5", "whole number"),
        ("openvino:cpu:speed=9", "threads, precision, batch or mode"),
        ("openvino:cpu:fast", "RUNTIME:PROCESSOR"),
        ("openvino:cpu:mode=compile", "openvino has no modes"),
        ("openvino:cpu:hint=throughput", "threads, precision, batch or mode"),
        ("torch:cpu:mode=fast", "eager, compile or graph"),
        ("torch:cpu:mode=graph", "runs on torch:cuda, got torch:cpu"),
        ("torch:cpu:mode=eager:mode=compile", "given twice"),
    ],
)
def test_wrong_targets_are_refused_with_the_choices(text: str, sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        TargetDevice.parse(text)


def test_a_flag_may_repeat_the_text_but_not_contradict_it() -> None:
    assert TargetDevice.parse("openvino:cpu", precision="fp32", batch=4).batch == 4
    assert TargetDevice.parse("openvino:cpu:precision=bf16", precision="bf16").precision == "bf16"
    with pytest.raises(TargetError, match="given twice"):
        TargetDevice.parse("openvino:cpu:precision=bf16", precision="f32")


@pytest.mark.parametrize(("quota", "threads"), [(None, 4), (64.0, 4), (2.0, 2), (1.5, 2), (0.2, 1)])
def test_threads_are_those_the_process_may_keep_busy(
    quota: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tavt_kit.core.device.allowed_cpus", lambda: (0, 1, 2, 5))
    monkeypatch.setattr("tavt_kit.core.device.ControlGroup.read", lambda: ControlGroup(cpus=quota))
    assert available_threads() == threads


def test_threads_that_are_not_given_are_all_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tavt_kit.core.device.ControlGroup.read", ControlGroup)
    if hasattr(os, "sched_getaffinity"):
        assert available_threads() == len(os.sched_getaffinity(0))
    assert TargetDevice.parse("torch:cpu").resolved().threads == available_threads()
    assert TargetDevice.parse("torch:cpu:threads=1").resolved().threads == 1
    assert TargetDevice.parse("torch:cuda").resolved().threads is None


def test_records_of_before_there_were_modes_are_read_and_still_written() -> None:
    old = {
        "runtime": "openvino",
        "processor": "cpu",
        "index": 0,
        "threads": 2,
        "precision": "f32",
        "batch": 1,
    }
    assert TargetDevice.from_record(old).is_usual and TargetDevice.from_record(old).as_record() == old
    compiled = TargetDevice.parse("torch:cpu:mode=compile")
    assert compiled.as_record()["mode"] == "compile" and not compiled.is_usual

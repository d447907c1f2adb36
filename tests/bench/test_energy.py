"""Energy meters on made-up counters, whose joules are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from tavt_kit.bench import energy as energy_module
from tavt_kit.bench.energy import Energy, energy_meter, gpu_state, measure_energy
from tavt_kit.core.device import TargetDevice

CPU, CUDA = TargetDevice.parse("torch:cpu"), TargetDevice.parse("torch:cuda:0")


def test_what_has_no_counter_has_a_reason() -> None:
    reason = energy_meter(CPU).reason
    assert "torch:cpu" in reason and "openvino:npu" in energy_meter(TargetDevice.parse("openvino:npu")).reason
    energy = measure_energy(pytest.fail, energy_meter(CPU))  # runs nothing
    assert energy.joules is None and energy.reason == reason


class Counting:
    """A meter that gives 3 J to every run, and what warm-up drew besides."""

    source, reason = "made up", ""

    def __init__(self) -> None:
        self.total = 0.0

    def joules(self) -> float:
        return self.total

    def run(self) -> None:
        self.total += 3.0


@pytest.mark.parametrize("batch", [1, 4])
def test_joules_are_of_one_image_without_the_warm_up(batch: int) -> None:
    meter = Counting()
    meter.total = 1e6
    energy = measure_energy(meter.run, meter, batch=batch, seconds=0.01)
    assert energy.joules == pytest.approx(3 / batch) and energy.images % batch == 0 and energy.images >= 5 * batch
    assert energy.watts is not None and energy.watts > 0 and energy.source == "made up"
    assert Energy.from_record(json.loads(json.dumps(energy.as_record()))) == energy


def test_a_counter_that_stands_still_is_no_zero() -> None:
    meter = Counting()
    energy = measure_energy(lambda: None, meter, seconds=0.01)
    assert energy.joules is None and "did not move" in energy.reason


class DriverError(Exception):
    """Stands in for pynvml.NVMLError."""


def driver(energy: Callable[[object], int]) -> SimpleNamespace:
    return SimpleNamespace(
        NVMLError=DriverError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_the_driver_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    total = iter((5000, 7500))
    monkeypatch.setitem(sys.modules, "pynvml", driver(lambda handle: next(total)))
    meter = energy_meter(CUDA)
    assert meter.source.startswith("NVML") and meter.joules() == 2.5

    def old(handle: object) -> int:
        raise DriverError("Not Supported")

    monkeypatch.setitem(sys.modules, "pynvml", driver(old))
    assert "Not Supported" in energy_meter(CUDA).reason


def test_without_a_driver_there_is_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", "")
    meter = energy_meter(CUDA)
    assert "pip install nvidia-ml-py" in meter.reason and meter.joules() == 0


def test_the_driver_tells_clock_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = driver(lambda handle: 0)
    nvml.NVML_CLOCK_SM = 1
    nvml.nvmlDeviceGetClockInfo = lambda handle, kind: 1755
    for reasons, slowed in ((0x04, False), (0x20, True), (0x80 | 0x04, True)):
        nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle, reasons=reasons: reasons
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(energy_module, "find_spec", lambda name: name)
        read = gpu_state(CUDA)
        assert read is not None and read() == (1755.0, slowed)
    assert gpu_state(TargetDevice.parse("torch:cpu")) is None


def test_a_slice_of_a_gpu_has_no_meter_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", uuid="7a1b")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    assert "slice of a GPU (MIG)" in energy_meter(CUDA).reason

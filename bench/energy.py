"""Joules of an inference on an NVIDIA GPU, where its driver tells; what it draws when idle is in them too."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice

_LEAST_RUNS = 5  # Inferences whose joules are divided: NVML counts in steps of tens of milliseconds
_RAMP = 0.25  # Share of the time that is run before counting: power rises over tenths of a second
# NVML's reasons for a low clock: hardware slowdown, heat by software and by hardware, power brake. Its power cap is
# not among them: at the cap the clock moves with the work, which its range tells.
_SLOWED = 0x08 | 0x20 | 0x40 | 0x80


@dataclass(frozen=True, slots=True)
class Energy(Record):
    """What inferences drew.

    Args:
        joules: Energy of one image; ``None`` where the machine cannot tell.
        reason: Why there is no number; empty where there is one.
        images: How many it was divided by.
    """

    joules: float | None
    watts: float | None = None
    source: str = ""
    reason: str = ""
    images: int = 0


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """Counts joules from the moment it is made.

    Args:
        joules: Counted since.
        reason: Why it cannot count; empty where it can.
    """

    joules: Callable[[], float] = lambda: 0.0
    source: str = ""
    reason: str = ""


def measure_energy(run: Callable[[], object], meter: EnergyMeter, *, batch: int = 1, seconds: float = 2.0) -> Energy:
    """Joules of one image, from inferences one after another.

    Args:
        run: One inference, warm.
        seconds: Least time to run.
    """
    if meter.reason:
        return Energy(None, reason=meter.reason)
    begin = time.perf_counter()
    while time.perf_counter() - begin < _RAMP * seconds:
        run()
    runs, before, begin = 0, meter.joules(), time.perf_counter()
    while runs < _LEAST_RUNS or time.perf_counter() - begin < seconds:
        run()
        runs += 1
    joules, took = meter.joules() - before, time.perf_counter() - begin
    if joules <= 0:
        return Energy(None, source=meter.source, reason=f"{meter.source} did not move in {took:.1f} s")
    return Energy(joules / (runs * batch), joules / took, meter.source, images=runs * batch)


def energy_meter(target: TargetDevice) -> EnergyMeter:
    """The meter of a CUDA device alone, without the CPU that feeds it; never fails, its ``reason`` says why not."""
    if target.processor in ("cuda", "tensorrt"):
        return _nvml(target.index)
    return EnergyMeter(reason=f"no energy counter is read for {target.runtime}:{target.processor}")


def _nvml(index: int) -> EnergyMeter:
    """The driver's own counter of a GPU (Volta and later), by the nvidia-ml-py package."""
    name = _device_name(index)
    if name.startswith("MIG-"):
        return EnergyMeter(reason=f"CUDA device {index} is a slice of a GPU (MIG), and the counter is of the whole one")
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return EnergyMeter(reason="the package nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        handle = _handle(nvml, name)
        begin = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return EnergyMeter(reason=f"NVML cannot count the energy of CUDA device {index}: {error}")
    return EnergyMeter(
        lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) - begin) / 1e3, "NVML, the GPU alone"
    )


def gpu_state(target: TargetDevice) -> Callable[[], tuple[float, bool]] | None:
    """Reads the state of an NVIDIA GPU, by the nvidia-ml-py package; ``None`` where nothing tells it.

    Returns:
        A function: its clock in MHz, and whether it is slowed, for heat or because the supply of power tells it.
    """
    if target.processor not in ("cuda", "tensorrt") or find_spec("pynvml") is None:
        return None
    nvml: Any = importlib.import_module("pynvml")
    # Called events since driver 535, throttling before.
    names = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    reasons = next(getattr(nvml, name) for name in names if hasattr(nvml, name))

    def read() -> tuple[float, bool]:
        clock = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        return float(clock), bool(reasons(handle) & _SLOWED)

    try:
        handle = _handle(nvml, _device_name(target.index))
        read()
    except nvml.NVMLError:
        return None
    return read


def _handle(nvml: Any, name: str) -> Any:
    """NVML's own of a device; raises its ``NVMLError``."""
    nvml.nvmlInit()
    by_uuid = name.startswith(("GPU-", "MIG-"))
    return nvml.nvmlDeviceGetHandleByUUID(name) if by_uuid else nvml.nvmlDeviceGetHandleByIndex(int(name))


def _device_name(index: int) -> str:
    """The GPU's UUID, which means the same to torch and to the driver; its number where torch is not here."""
    try:
        import torch
    except ImportError:
        return str(index)
    if index >= torch.cuda.device_count():
        return str(index)
    found = torch.cuda.get_device_properties(index)
    kind = "MIG" if " MIG " in found.name else "GPU"
    return f"{kind}-{str(found.uuid).removeprefix(f'{kind}-')}"

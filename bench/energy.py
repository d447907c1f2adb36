"""Joules of an inference, where the machine can tell.

The sequence, after the times were measured (a candidate runs alone, so that the joules are its own)::

    meter = energy_meter(target)
    energy = measure_energy(session.timer(images), meter, batch=target.batch)      # about 2 s; at once where not told
    row["energy"] = energy.as_record()

Whatever else the machine does meanwhile is in the joules too, and so is what it draws when idle.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice, read_text

_LEAST_RUNS = 5
"""Inferences whose joules are divided: RAPL counts in steps of a millisecond, NVML of tens."""

_RAMP = 0.25
"""Share of the time that is run before counting: power rises over tenths of a second."""


@dataclass(frozen=True, slots=True)
class Energy(Record):
    """What inferences drew.

    Args:
        joules: Energy of one image; ``None`` where the machine cannot tell.
        watts: Mean power while they ran.
        source: Which counters.
        reason: Why there is no number; empty where there is one.
        images: How many it was divided by.
    """

    joules: float | None
    watts: float | None = None
    source: str = ""
    reason: str = ""
    images: int = 0


def measure_energy(run: Callable[[], object], meter: EnergyMeter, *, batch: int = 1, seconds: float = 2.0) -> Energy:
    """Joules of one image, from inferences one after another.

    Args:
        run: One inference, warm.
        meter: Meter of the processor it runs on.
        batch: Images in it.
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


class EnergyMeter(Protocol):
    """Counts joules from the moment it is made."""

    source: str
    reason: str
    """Why it cannot count; empty where it can."""

    def joules(self) -> float:
        """Since it was made. To be read more often than its counters turn over (minutes at full power)."""
        ...


def energy_meter(target: TargetDevice, root: Path = Path("/")) -> EnergyMeter:
    """The meter of the target's processor; never fails, a ``NoMeter`` says why there is none.

    Args:
        target: A CPU is metered with its memory, a CUDA device alone, without the CPU that feeds it.
        root: Root of the file system; another one in tests.
    """
    if target.is_cpu:
        return Rapl.found(root)
    if target.processor in ("cuda", "tensorrt"):
        return _nvidia(target)
    return NoMeter(f"no energy counter is known for {target.runtime}:{target.processor}")


class NoMeter:
    """Where nothing counts."""

    source = ""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def joules(self) -> float:
        """None were counted."""
        return 0.0


class Rapl:
    """Sums the packages' and their memories' counters of /sys/class/powercap, which turn over at a range of their own.

    "core" and "uncore" are parts of a package and "psys" holds it, so none of these is added.
    Source: the kernel's documentation, power/powercap.
    """

    source, reason = "RAPL, packages and memory", ""

    def __init__(self, zones: tuple[Path, ...]) -> None:
        self._zones = zones
        self._ranges = {zone: int(read_text(zone / "max_energy_range_uj") or 0) for zone in zones}
        self._last = self._read()
        self._sum = 0

    @staticmethod
    def found(root: Path = Path("/")) -> EnergyMeter:
        """The machine's, or why there is none."""
        folder = root / "sys/class/powercap"
        # "intel-rapl-mmio" shows the same packages a second time. AMD's counters have Intel's name too.
        zones = sorted(folder.glob("intel-rapl:*")) if folder.is_dir() else []
        wanted = tuple(zone for zone in zones if read_text(zone / "name").startswith(("package", "dram")))
        if not wanted:
            return NoMeter("this machine shows no RAPL energy counters (a virtual machine, or no x86 processor)")
        if not all(read_text(zone / "energy_uj").isdecimal() for zone in wanted):
            return NoMeter(
                f"the energy counters are readable by root only; allow it by: sudo chmod a+r {folder}/*/energy_uj"
            )
        return Rapl(wanted)

    def joules(self) -> float:
        """See ``EnergyMeter``."""
        now = self._read()
        for zone, count in now.items():
            step = count - self._last[zone]
            self._sum += step if step >= 0 else step + self._ranges[zone] + 1
        self._last = now
        return self._sum / 1e6

    def _read(self) -> dict[Path, int]:
        return {zone: int(read_text(zone / "energy_uj")) for zone in self._zones}


class Nvml:
    """The driver's own counter of a GPU (Volta and later), by the nvidia-ml-py package.

    Args:
        nvml: Module ``pynvml``, initialised.
    """

    source, reason = "NVML, the GPU alone", ""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._begin = self._read()

    def joules(self) -> float:
        """See ``EnergyMeter``."""
        return self._read() - self._begin

    def _read(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3


class NvidiaSmi:
    """The power that nvidia-smi tells, times the seconds between two readings: rough, for want of a counter.

    Args:
        now: Clock in seconds.
    """

    source, reason = "nvidia-smi, power at both ends times the time, the GPU alone", ""

    def __init__(self, watts: Callable[[], float], now: Callable[[], float] = time.perf_counter) -> None:
        self._ask, self._now = watts, now
        self._watts, self._when, self._sum = watts(), now(), 0.0

    def joules(self) -> float:
        """See ``EnergyMeter``."""
        watts, when = self._ask(), self._now()
        self._sum += (watts + self._watts) / 2 * (when - self._when)
        self._watts, self._when = watts, when
        return self._sum


def _nvidia(target: TargetDevice) -> EnergyMeter:
    name = _device_name(target.index)
    if name.startswith("MIG-"):
        return NoMeter(f"CUDA device {target.index} is a slice of a GPU (MIG), and the counter is of the whole one")
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return _by_command(name)
    try:
        return Nvml(nvml, _handle(nvml, name))
    except nvml.NVMLError as error:
        return NoMeter(f"NVML cannot count the energy of CUDA device {target.index}: {error}")


def _handle(nvml: Any, name: str) -> Any:
    """NVML's own of a device; raises its ``NVMLError``."""
    nvml.nvmlInit()
    by_uuid = name.startswith(("GPU-", "MIG-"))
    return nvml.nvmlDeviceGetHandleByUUID(name) if by_uuid else nvml.nvmlDeviceGetHandleByIndex(int(name))


GpuState = tuple[float, bool]
"""Its clock in MHz, and whether it is slowed: for heat, or because the supply of power tells it."""

_SLOWED = 0x08 | 0x20 | 0x40 | 0x80
"""NVML's reasons for a low clock: hardware slowdown, heat by software and by hardware, power brake. Its power cap is
not among them: at the cap the clock moves with the work, which its range tells."""


def gpu_state(target: TargetDevice) -> Callable[[], GpuState] | None:
    """Reads the state of an NVIDIA GPU, by the nvidia-ml-py package; ``None`` where nothing tells it."""
    if target.processor not in ("cuda", "tensorrt") or find_spec("pynvml") is None:
        return None
    nvml: Any = importlib.import_module("pynvml")
    # Called events since driver 535, throttling before.
    names = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
    reasons = next(getattr(nvml, name) for name in names if hasattr(nvml, name))

    def read() -> GpuState:
        clock = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
        return float(clock), bool(reasons(handle) & _SLOWED)

    try:
        handle = _handle(nvml, _device_name(target.index))
        read()
    except nvml.NVMLError:
        return None
    return read


def _by_command(name: str) -> EnergyMeter:
    command = shutil.which("nvidia-smi")
    if command is None:
        return NoMeter("there is neither the package nvidia-ml-py nor nvidia-smi: pip install nvidia-ml-py")

    def watts() -> float:
        query = [command, "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", name]
        return float(subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout)

    try:
        return NvidiaSmi(watts)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return NoMeter(f"nvidia-smi does not tell the power of GPU {name}: {type(error).__name__}")


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

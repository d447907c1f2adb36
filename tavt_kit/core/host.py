"""HostFacts: the machine and the moment a measurement was taken, as far as the standard library can tell."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tavt_kit.core.codec import Record
from tavt_kit.core.device import ControlGroup, allowed_cpus, read_text

# Instruction sets that decide which kernels run; from ``asimd`` on ARM's.
_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve",
    "asimddp", "i8mm", "bf16",
)  # fmt: skip
_PACKAGES = ("tavt-kit", "torch", "timm", "onnxruntime", "openvino", "nncf", "numpy")


@dataclass(frozen=True, slots=True)
class HostFacts(Record):
    """What a reader must know to compare two records.

    Args:
        flags: Instruction sets of interest that the CPU has.
        cores: Logical CPUs of the machine; ``affinity`` has those that this process may use.
        quota: CPUs' worth of time the control group allows, or ``None`` for no limit.
        load: Load averages of 1, 5 and 15 minutes when the facts were gathered.
        date: UTC, ISO 8601.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    affinity: tuple[int, ...]
    quota: float | None
    memory_mb: int | None
    governor: str | None
    os: str
    python: str
    packages: Mapping[str, str]
    load: tuple[float, ...]
    date: str
    accelerator: str | None = None

    @classmethod
    def gather(cls, accelerator: str | None = None) -> HostFacts:
        """Look at this machine now."""
        (name, flags), packages, memory = processor(), dict[str, str](), None
        for package in _PACKAGES:
            with suppress(PackageNotFoundError):
                packages[package] = version(package)
        with suppress(AttributeError, ValueError, OSError):
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        return cls(
            cpu=name,
            flags=flags,
            cores=os.cpu_count() or 1,
            affinity=allowed_cpus(),
            quota=ControlGroup.read().cpus,
            memory_mb=memory,
            governor=read_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or None,
            os=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=platform.python_version(),
            packages=packages,
            load=tuple(round(value, 2) for value in os.getloadavg()) if hasattr(os, "getloadavg") else (),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            accelerator=accelerator,
        )

    def __str__(self) -> str:
        """For people, in one line."""
        flags = f" ({', '.join(self.flags)})" if self.flags else ""
        gpu = f", {self.accelerator}" if self.accelerator else ""
        return f"{self.cpu}, {len(self.affinity)} of {self.cores} CPUs{flags}{gpu}, {self.os}, {self.date[:10]}"


def processor() -> tuple[str, tuple[str, ...]]:
    """Its model name and instruction sets of interest, by /proc/cpuinfo where there is one."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return name, ()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
        elif not line and flags:
            break
    return name, tuple(flag for flag in _FLAGS if flag in flags)

"""What Linux counts that disturbs a measurement, read at one moment from /proc and /sys."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tavt_kit.core.control_group import ControlGroup

__all__ = ["Counters", "megahertz", "thermal_events"]

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Units of /proc/stat in a second."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters that only grow; two of them tell what happened between. ``None`` where the machine does not say.

    Args:
        busy: Seconds that the CPUs this process may use were busy, with whatever.
        elsewhere: Seconds that the other CPUs of the machine were busy.
        stolen: Seconds that a hypervisor kept those CPUs from running anything.
        own: Seconds of CPU time of this process, all its threads and the children it has waited for.
        preempted: Times a thread of this process was taken off its CPU before it was done.
        thermal: Times a CPU was slowed because it was hot.
        group: The control group's own counters.
        load: Load average of the last minute; it does not grow.
    """

    busy: float | None
    elsewhere: float | None
    stolen: float | None
    own: float | None
    preempted: int | None
    thermal: int | None
    group: ControlGroup
    load: float | None

    @classmethod
    def read(cls, cpus: Collection[int], root: Path = Path("/")) -> Counters:
        """Now; about a millisecond.

        Args:
            cpus: Those that this process may use.
            root: Of the file system; another one in tests.
        """
        busy, elsewhere, stolen = _processors(root, cpus)
        return cls(
            busy=busy,
            elsewhere=elsewhere,
            stolen=stolen,
            own=_own(root),
            preempted=_preempted(root),
            thermal=thermal_events(root),
            group=ControlGroup.read(root),
            load=_load(root),
        )


def _processors(root: Path, cpus: Collection[int]) -> tuple[float | None, float | None, float | None]:
    """Seconds busy here, busy elsewhere and stolen here. Fields as in proc(5): user nice system idle iowait irq ..."""
    here = elsewhere = stolen = 0
    found = False
    for line in _text(root / "proc/stat").splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu") or name == "cpu" or len(fields) < 8:
            continue
        found, ticks = True, [int(field) for field in fields]
        busy = sum(ticks[:3]) + ticks[5] + ticks[6]
        if int(name[3:]) in cpus:
            here, stolen = here + busy, stolen + ticks[7]
        else:
            elsewhere += busy
    return (here / _TICKS, elsewhere / _TICKS, stolen / _TICKS) if found else (None, None, None)


def _own(root: Path) -> float | None:
    """utime, stime, cutime and cstime, which follow the name in brackets (that may itself hold any sign)."""
    fields = _text(root / "proc/self/stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS if len(fields) > 15 else None


def _preempted(root: Path) -> int | None:
    found = list[int]()
    for status in _matches(root / "proc/self/task", "*/status"):
        for line in _text(status).splitlines():
            if line.startswith("nonvoluntary_ctxt_switches:"):
                found.append(int(line.split()[1]))
    return sum(found) if found else None


def _load(root: Path) -> float | None:
    fields = _text(root / "proc/loadavg").split()
    return float(fields[0]) if fields else None


def thermal_events(root: Path) -> int | None:
    """Times CPUs were slowed for their heat (x86), plus the steps at which cooling holds them now (ARM boards)."""
    counts = _matches(root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/*_throttle_count")
    steps = [
        kind.with_name("cur_state")
        for kind in _matches(root / "sys/class/thermal", "cooling_device*/type")
        if "cpufreq" in (name := _text(kind).lower()) or name == "processor"
    ]
    found = [int(text) for path in (*counts, *steps) if (text := _text(path)).isdecimal()]
    return sum(found) if found else None


def megahertz(cpus: Collection[int], root: Path = Path("/")) -> float | None:
    """Clock of the fastest of these CPUs now: the others may idle. ``None`` where the machine does not say."""
    clocks = [
        int(text) / 1e3
        for cpu in cpus
        if (text := _text(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")).isdecimal()
    ]
    if not clocks:
        for block in _text(root / "proc/cpuinfo").split("\n\n"):
            facts = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in block.splitlines())}
            if facts.get("processor", "").isdecimal() and int(facts["processor"]) in cpus and "cpu MHz" in facts:
                clocks.append(float(facts["cpu MHz"]))
    return max(clocks, default=None)


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    return folder.glob(pattern) if folder.is_dir() else iter(())


def _text(path: Path) -> str:
    """Empty where there is no such file, or it may not be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

"""Watch: whether the machine was left in peace while something was measured; a plain word with its reasons."""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tavt_kit.core.codec import Record
from tavt_kit.core.device import ControlGroup, TargetDevice, allowed_cpus, read_text
from tavt_kit.errors import MeasurementError

# Parts of the run whose median clocks are compared: a moment's dip cancels, a change that lasts does not.
_STRETCHES = 5
_LEAST = 3  # Readings in such a part
_GAP = 0.25  # Least seconds between two readings of the clock


@dataclass(frozen=True, slots=True)
class Noise(Record):
    """How quiet the machine was.

    Args:
        word: ``steady`` or ``unsteady``, with a sentence in ``reasons`` for each thing that disturbed.
        unseen: What this machine does not tell, so that nobody takes silence for quiet.
        facts: The numbers behind, by name; ``None`` where not told. ``seconds`` watched; ``cpus`` allowed; ``others``
            and ``elsewhere``: CPUs' worth of time used by other processes on ours and on the other CPUs; ``load1``;
            ``stolen``: share; ``preempted``: forced switches a second of own CPU time; ``throttled``: share of the
            run; ``quota``: CPUs; ``thermal``: events; ``mhz_low``, ``mhz_high``: of the stretches; ``pace``:
            slowest stretch over fastest, of a fixed chain of additions. Of a GPU that tells: ``gpu_slowed``, share of
            the readings, and ``gpu_mhz_low``, ``gpu_mhz_high``.
    """

    word: str
    reasons: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    facts: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def is_steady(self) -> bool:
        """Nothing that was seen disturbed."""
        return self.word == "steady"

    def __str__(self) -> str:
        """For people, in one line."""
        return self.word if self.is_steady else f"{self.word}: {'; '.join(self.reasons)}"


class Watch:
    """Looks on without a thread of its own: a turn costs about a millisecond, between turns. A watch serves once.

    Args:
        root: Root of the file system; ``now`` and ``pace`` are clocks in seconds; others in tests.
        cpus: Those this process may use; its affinity by default.
        gpu: Reads the clock of the GPU measured, and whether it is slowed; ``None`` where none is, or nothing tells.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        cpus: Collection[int] | None = None,
        now: Callable[[], float] = time.perf_counter,
        pace: Callable[[], float] | None = None,
        gpu: Callable[[], tuple[float, bool]] | None = None,
    ) -> None:
        self._root, self._now, self._pace, self._gpu = root, now, pace or _pace, gpu
        self._cpus = frozenset(allowed_cpus() if cpus is None else cpus)
        self._ends = list[tuple[float, dict[str, float | None]]]()
        self._last = float("-inf")
        self._clocks, self._paces, self._heat = list[float](), list[float](), list[int]()
        self._gpu_states = list[tuple[float, bool]]()

    def __enter__(self) -> Watch:
        self._ends.append((self._now(), _counters(self._cpus, self._root)))
        self.turn()
        return self

    def __exit__(self, *error: object) -> None:
        self._last = float("-inf")
        self.turn()
        self._ends.append((self._now(), _counters(self._cpus, self._root)))

    def turn(self, *_: object) -> None:
        """Read the clock, unless that was done just before; to be called between turns."""
        if self._now() - self._last < _GAP:
            return
        clock, thermal = megahertz(self._cpus, self._root), thermal_events(self._root)
        if clock is not None:
            self._clocks.append(clock)
        if thermal is not None:
            self._heat.append(thermal)
        if self._gpu is not None and self._paces:  # the first time it idles
            self._gpu_states.append(self._gpu())
        self._paces.append(self._pace())
        self._last = self._now()

    def verdict(self) -> Noise:
        """What was seen in the block; raises MeasurementError before that is over."""
        if len(self._ends) < 2:
            raise MeasurementError("a watch gives its verdict after its block; measure inside the block")
        facts = {name: None if value is None else round(value, 6) for name, value in self._facts().items()}
        reasons = tuple(_disturbances(facts))
        unseen = tuple(words for name, words in _UNSEEN.items() if facts[name] is None)
        return Noise("unsteady" if reasons else "steady", reasons, unseen, facts)

    def _facts(self) -> dict[str, float | None]:
        (start, begin), (stop, end) = self._ends
        seconds, cpus = max(stop - start, 1e-9), float(len(self._cpus))

        def grown(name: str) -> float | None:
            before, after = begin[name], end[name]
            return None if before is None or after is None else max(0.0, after - before)

        def per(value: float | None, whole: float | None) -> float | None:
            return None if value is None or not whole else value / whole

        own, busy = grown("own"), grown("busy")
        clocks, paces = _stretches(self._clocks), _stretches(self._paces)
        facts = {
            "seconds": seconds,
            "cpus": cpus,
            "others": None if own is None or busy is None else max(0.0, busy - own) / seconds,
            "elsewhere": per(grown("elsewhere"), seconds),
            "load1": end["load1"],
            "stolen": per(grown("stolen"), seconds * cpus),
            "preempted": per(grown("preempted"), own),
            "throttled": per(grown("throttled"), seconds),
            "quota": end["quota"],
            "thermal": float(max(self._heat) - self._heat[0]) if self._heat else None,
            "mhz_low": min(clocks, default=None),
            "mhz_high": max(clocks, default=None),
            "pace": max(paces) / min(paces) if paces else None,
        }
        if self._gpu_states:
            clocks = _stretches([clock for clock, _ in self._gpu_states])
            facts["gpu_slowed"] = sum(slowed for _, slowed in self._gpu_states) / len(self._gpu_states)
            facts["gpu_mhz_low"], facts["gpu_mhz_high"] = min(clocks, default=None), max(clocks, default=None)
        return facts


def _stretches(readings: Sequence[float]) -> list[float]:
    """The medians of up to five consecutive parts of the run; none where there are too few readings for two."""
    parts = min(_STRETCHES, len(readings) // _LEAST)
    if parts < 2:
        return []
    edges = [round(len(readings) * part / parts) for part in range(parts + 1)]
    return [median(readings[start:end]) for start, end in zip(edges, edges[1:], strict=False)]


def _pace() -> float:
    """Of a chain of additions that nothing but the clock makes faster; the best of three, half a millisecond in all."""
    best = float("inf")
    for _ in range(3):
        begin, total = time.perf_counter(), 0
        for step in range(4000):
            total += step
        best = min(best, time.perf_counter() - begin)
    return best


# Share of our CPUs' time that other processes may use: with more, even an idle CPU to move to is not certain.
_OTHERS = 0.05
_STOLEN = 0.01  # Share of our CPUs' time that a hypervisor may take: the half width of the protocol's own interval
# Forced switches a second of own CPU time. Alone, a thread sees a few (the kernel's own work); beside a busy process
# on the same CPU it is switched at every slice of 2 to 4 ms, 250 to 500 times.
_PREEMPTED = 50.0
# Share of our CPUs' time by others from which on forced switches are theirs. Without any, it is our own threads that
# take turns: one runtime's, still waiting busily, with the next one's. The untimed first run of each turn takes that.
_SEEN = 0.01
# Share of the run that a control group may stop us: each stop lasts tens of milliseconds, many inferences long.
_THROTTLED = 0.005
# Change of the clock that is unsteady: times follow it one to one, and 5 % is the size of what one looks for.
_CLOCK = 0.05

_UNSEEN = {
    "others": "the load of other processes",
    "stolen": "time taken by a hypervisor",
    "preempted": "forced switches of threads",
    "throttled": "stops by the control group",
    "thermal": "slowing for heat",
    "mhz_low": "the clock in MHz",
    "pace": "the clock by a fixed piece of work (too short a run)",
}


def _disturbances(facts: Mapping[str, float | None]) -> list[str]:
    """A sentence for each threshold that was crossed; what is not told crosses none."""
    cpus, reasons = facts["cpus"] or 1.0, list[str]()
    seen = {name: value or 0.0 for name, value in facts.items()}
    if seen["others"] > _OTHERS * cpus:
        reasons.append(f"other processes used {_percent(seen['others'] / cpus)} of the time of the CPUs allowed")
    if seen["stolen"] > _STOLEN:
        reasons.append(f"the hypervisor kept the CPUs for others {_percent(seen['stolen'])} of the time")
    if seen["preempted"] > _PREEMPTED and seen["others"] > _SEEN * cpus:
        reasons.append(f"threads were taken off their CPU {seen['preempted']:.0f} times a second of their work")
    if seen["throttled"] > _THROTTLED:
        limit = "" if facts["quota"] is None else f" ({facts['quota']:.3g} CPUs)"
        reasons.append(f"the control group's quota{limit} stopped the work {_percent(seen['throttled'])} of the time")
    if seen["thermal"] > 0:
        reasons.append(f"CPUs were slowed for their heat {seen['thermal']:.0f} times")
    if (slowed := seen.get("gpu_slowed", 0.0)) > 0:
        reasons.append(f"the GPU was slowed for heat or power in {_percent(slowed)} of the readings")
    for whose, kind in (("the", ""), ("the GPU's", "gpu_")):
        low, high = seen.get(f"{kind}mhz_low", 0.0), seen.get(f"{kind}mhz_high", 0.0)
        if high > (1 + _CLOCK) * low:
            reasons.append(f"{whose} clock moved between {low:.0f} and {high:.0f} MHz in the run")
    if seen["pace"] > 1 + _CLOCK:
        reasons.append(
            f"a fixed piece of work took up to {_percent(seen['pace'] - 1)} longer at some times than at others"
        )
    return reasons


def _percent(share: float) -> str:
    """Two digits, or all of a hundred."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # Units of /proc/stat in a second


def _counters(cpus: Collection[int], root: Path) -> dict[str, float | None]:
    """What only grows, now (about a millisecond), and the load; ``None`` where the machine does not say.

    Seconds in which our CPUs were ``busy``, with whatever, in which the others were (``elsewhere``), and in which a
    hypervisor kept ours (``stolen``); of CPU time of this process (``own``), all its threads and the children it has
    waited for; times a thread of it was ``preempted``, taken off its CPU before it was done; ``throttled`` seconds.
    """
    here, there, lost, is_told = 0, 0, 0, False  # in ticks
    for line in read_text(root / "proc/stat").splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu") or name == "cpu" or len(fields) < 8:
            continue
        is_told, ticks = True, [int(field) for field in fields]
        spent = sum(ticks[:3]) + ticks[5] + ticks[6]  # as in proc(5): user nice system idle iowait irq softirq
        if int(name[3:]) in cpus:
            here, lost = here + spent, lost + ticks[7]
        else:
            there += spent
    # The name in brackets may itself hold any sign; behind it are utime, stime, cutime and cstime.
    fields = read_text(root / "proc/self/stat").rpartition(")")[2].split()
    statuses = "\n".join(map(read_text, (root / "proc/self/task").glob("*/status")))
    switches = [int(count) for count in re.findall(r"^nonvoluntary_ctxt_switches:\s*(\d+)", statuses, re.M)]
    load, group = read_text(root / "proc/loadavg").split(), ControlGroup.read(root)
    return {
        "busy": here / _TICKS if is_told else None,
        "elsewhere": there / _TICKS if is_told else None,
        "stolen": lost / _TICKS if is_told else None,
        "own": sum(int(field) for field in fields[11:15]) / _TICKS if len(fields) > 15 else None,
        "preempted": sum(switches) if switches else None,
        "throttled": group.throttled_seconds,
        "quota": group.cpus,
        "load1": float(load[0]) if load else None,
    }


def thermal_events(root: Path) -> int | None:
    """Times CPUs were slowed for their heat (x86), plus the steps at which cooling holds them now (ARM boards)."""
    counts = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    steps = [
        kind.with_name("cur_state")
        for kind in (root / "sys/class/thermal").glob("cooling_device*/type")
        if "cpufreq" in (name := read_text(kind).lower()) or name == "processor"
    ]
    events = [int(text) for path in (*counts, *steps) if (text := read_text(path)).isdecimal()]
    return sum(events) if events else None


def megahertz(cpus: Collection[int], root: Path = Path("/")) -> float | None:
    """Clock of the fastest of these CPUs now: the others may idle. ``None`` where the machine does not say."""
    clocks = [
        int(text) / 1e3
        for cpu in cpus
        if (text := read_text(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")).isdecimal()
    ]
    if not clocks:
        for block in read_text(root / "proc/cpuinfo").split("\n\n"):
            facts = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in block.splitlines())}
            if facts.get("processor", "").isdecimal() and int(facts["processor"]) in cpus and "cpu MHz" in facts:
                clocks.append(float(facts["cpu MHz"]))
    return max(clocks, default=None)


# NVML's reasons for a low clock: hardware slowdown, heat by software and by hardware, power brake. Its power cap is
# not among them: at the cap the clock moves with the work, which its range tells.
_SLOWED = 0x08 | 0x20 | 0x40 | 0x80


def gpu_state(target: TargetDevice) -> Callable[[], tuple[float, bool]] | None:
    """Reads an NVIDIA GPU's clock in MHz, and whether it is slowed for heat or by its supply of power.

    By the nvidia-ml-py package; ``None`` where nothing tells it.
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
        nvml.nvmlInit()
        uuid = _gpu_uuid(target.index)
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid) if uuid else nvml.nvmlDeviceGetHandleByIndex(target.index)
        read()
    except nvml.NVMLError:
        return None
    return read


def _gpu_uuid(index: int) -> str | None:
    """The GPU's UUID, which means the same to torch and to the driver; ``None`` where torch is not here."""
    try:
        import torch
    except ImportError:
        return None
    if index >= torch.cuda.device_count():
        return None
    device = torch.cuda.get_device_properties(index)
    kind = "MIG" if " MIG " in device.name else "GPU"
    return f"{kind}-{str(device.uuid).removeprefix(f'{kind}-')}"

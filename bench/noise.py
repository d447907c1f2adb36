"""Watch: whether the machine was left in peace while something was measured; a plain word with its reasons.

The sequence, around an interleaved measurement::

    watch = Watch()
    with watch:                                             # reads the counters, here and at the end
        found = bench(sessions, images, on_round=watch.turn)     # between turns: the clock, at most 4 times a second
    noise = watch.verdict()                                 # Noise("unsteady", ("other processes used ...",), ...)
    body["noise"] = noise.as_record()

No thread runs beside the measurement: what a turn costs (about a millisecond) is spent between turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tavt_kit.core.codec import Record
from tavt_kit.core.device import ControlGroup, allowed_cpus, read_text
from tavt_kit.errors import MeasurementError

_STRETCHES = 5
"""Parts of the run whose median clocks are compared: a moment's dip cancels, a change that lasts does not."""

_LEAST = 3
"""Readings in such a part."""

_GAP = 0.25
"""Least seconds between two readings of the clock."""


@dataclass(frozen=True, slots=True)
class Noise(Record):
    """How quiet the machine was.

    Args:
        word: ``steady`` or ``unsteady``.
        reasons: A sentence for each thing that disturbed; empty where steady.
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
    """See the module. A watch serves once.

    Args:
        root: Root of the file system; another one in tests.
        cpus: Those this process may use; its affinity by default.
        now: A clock in seconds.
        pace: Seconds that a fixed piece of work takes.
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
        self._root, self._now, self._pace = root, now, pace or _pace
        self._cpus = frozenset(allowed_cpus() if cpus is None else cpus)
        self._begin: tuple[float, Counters] | None = None
        self._end: tuple[float, Counters] | None = None
        self._last = float("-inf")
        self._clocks, self._paces, self._heat = list[float](), list[float](), list[int]()
        self._gpu, self._gpu_states = gpu, list[tuple[float, bool]]()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin; just before warm-up."""
        self._begin = (self._now(), Counters.read(self._cpus, self._root))
        self.turn()

    def turn(self, *told: object) -> None:
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

    def stop(self) -> None:
        """End; just after the last turn."""
        self._last = float("-inf")
        self.turn()
        self._end = (self._now(), Counters.read(self._cpus, self._root))

    def verdict(self) -> Noise:
        """What was seen between start and stop.

        Raises:
            MeasurementError: The watch was not started and stopped.
        """
        if self._begin is None or self._end is None:
            raise MeasurementError("a watch gives its verdict after start and stop; call both around the measurement")
        found = self._facts(self._end[0] - self._begin[0], self._begin[1], self._end[1])
        facts = {name: None if value is None else round(value, 6) for name, value in found.items()}
        reasons = tuple(disturbances(facts))
        return Noise("unsteady" if reasons else "steady", reasons, tuple(unseen(facts)), facts)

    def _facts(self, seconds: float, begin: Counters, end: Counters) -> dict[str, float | None]:
        seconds = max(seconds, 1e-9)
        names = ("own", "busy", "elsewhere", "stolen", "preempted")
        own, busy, elsewhere, stolen, preempted = (_grown(getattr(begin, name), getattr(end, name)) for name in names)
        others = None if own is None or busy is None else max(0.0, busy - own)
        throttled = _grown(begin.group.throttled_seconds, end.group.throttled_seconds)
        clocks, paces = _stretches(self._clocks), _stretches(self._paces)
        return {
            "seconds": seconds,
            "cpus": float(len(self._cpus)),
            "others": None if others is None else others / seconds,
            "elsewhere": None if elsewhere is None else elsewhere / seconds,
            "load1": end.load,
            "stolen": None if stolen is None else stolen / seconds / len(self._cpus),
            "preempted": None if preempted is None or not own else preempted / own,
            "throttled": None if throttled is None else throttled / seconds,
            "quota": end.group.cpus,
            "thermal": float(max(self._heat) - self._heat[0]) if self._heat else None,
            "mhz_low": min(clocks, default=None),
            "mhz_high": max(clocks, default=None),
            "pace": max(paces) / min(paces) if paces else None,
            **self._gpu_facts(),
        }

    def _gpu_facts(self) -> dict[str, float | None]:
        if not self._gpu_states:
            return {}
        clocks = _stretches([clock for clock, _ in self._gpu_states])
        slowed = sum(slowed for _, slowed in self._gpu_states) / len(self._gpu_states)
        return {
            "gpu_slowed": slowed,
            "gpu_mhz_low": min(clocks, default=None),
            "gpu_mhz_high": max(clocks, default=None),
        }


def _stretches(readings: Sequence[float]) -> list[float]:
    """The medians of up to five consecutive parts of the run; none where there are too few readings for two."""
    parts = min(_STRETCHES, len(readings) // _LEAST)
    if parts < 2:
        return []
    edges = [round(len(readings) * part / parts) for part in range(parts + 1)]
    return [median(readings[start:end]) for start, end in zip(edges, edges[1:], strict=False)]


def _grown(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, float(after) - float(before))


def _pace() -> float:
    """Of a chain of additions that nothing but the clock makes faster; the best of three, half a millisecond in all."""
    best = float("inf")
    for _ in range(3):
        begin, total = time.perf_counter(), 0
        for step in range(4000):
            total += step
        best = min(best, time.perf_counter() - begin)
    return best


_OTHERS = 0.05
"""Share of our CPUs' time that other processes may use: with more, even an idle CPU to move to is not certain."""

_STOLEN = 0.01
"""Share of our CPUs' time that a hypervisor may take: the half width of the protocol's own interval."""

_PREEMPTED = 50.0
"""Forced switches a second of own CPU time. Alone, a thread sees a few (the kernel's own work); beside a busy process
on the same CPU it is switched at every slice of 2 to 4 ms, 250 to 500 times."""

_SEEN = 0.01
"""Share of our CPUs' time by others from which on forced switches are theirs. Without any, it is our own threads that
take turns: one runtime's, still waiting busily, with the next one's. The untimed first run of each turn takes that."""

_THROTTLED = 0.005
"""Share of the run that a control group may stop us: each stop lasts tens of milliseconds, many inferences long."""

_CLOCK = 0.05
"""Change of the clock that is unsteady: times follow it one to one, and 5 % is the size of what one looks for."""

_UNSEEN = {
    "others": "the load of other processes",
    "stolen": "time taken by a hypervisor",
    "preempted": "forced switches of threads",
    "throttled": "stops by the control group",
    "thermal": "slowing for heat",
    "mhz_low": "the clock in MHz",
    "pace": "the clock by a fixed piece of work (too short a run)",
}


def unseen(facts: Mapping[str, float | None]) -> list[str]:
    """What the machine did not tell."""
    return [words for name, words in _UNSEEN.items() if facts[name] is None]


def disturbances(facts: Mapping[str, float | None]) -> list[str]:
    """A sentence for each threshold that was crossed."""
    cpus, found = facts["cpus"] or 1.0, list[str]()

    def above(name: str, most: float) -> float | None:
        value = facts.get(name)
        return value if value is not None and value > most else None

    if (others := above("others", _OTHERS * cpus)) is not None:
        found.append(f"other processes used {_percent(others / cpus)} of the time of the CPUs allowed")
    if (stolen := above("stolen", _STOLEN)) is not None:
        found.append(f"the hypervisor kept the CPUs for others {_percent(stolen)} of the time")
    if (preempted := above("preempted", _PREEMPTED)) is not None and above("others", _SEEN * cpus) is not None:
        found.append(f"threads were taken off their CPU {preempted:.0f} times a second of their work")
    if (throttled := above("throttled", _THROTTLED)) is not None:
        limit = "" if facts["quota"] is None else f" ({facts['quota']:.3g} CPUs)"
        found.append(f"the control group's quota{limit} stopped the work {_percent(throttled)} of the time")
    if (thermal := above("thermal", 0)) is not None:
        found.append(f"CPUs were slowed for their heat {thermal:.0f} times")
    if (slowed := above("gpu_slowed", 0)) is not None:
        found.append(f"the GPU was slowed for heat or power in {_percent(slowed)} of the readings")
    for whose, kind in (("the", ""), ("the GPU's", "gpu_")):
        low, high = facts.get(f"{kind}mhz_low"), facts.get(f"{kind}mhz_high")
        if low is not None and high is not None and high > (1 + _CLOCK) * low:
            found.append(f"{whose} clock moved between {low:.0f} and {high:.0f} MHz in the run")
    if (pace := above("pace", 1 + _CLOCK)) is not None:
        found.append(f"a fixed piece of work took up to {_percent(pace - 1)} longer at some times than at others")
    return found


def _percent(share: float) -> str:
    """Two digits, or all of a hundred."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Units of /proc/stat in a second."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters that only grow; two of them tell what happened between. ``None`` where the machine does not say.

    Args:
        busy: Seconds in which our CPUs were busy, with whatever.
        elsewhere: Seconds in which the other CPUs were busy.
        stolen: Seconds in which a hypervisor kept our CPUs.
        own: Seconds of CPU time of this process, all its threads and the children it has waited for.
        preempted: Times a thread of this process was taken off its CPU before it was done.
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
        """Now; about a millisecond."""
        busy, elsewhere, stolen = _processors(root, cpus)
        own, preempted, thermal = _own(root), _preempted(root), thermal_events(root)
        return cls(busy, elsewhere, stolen, own, preempted, thermal, ControlGroup.read(root), _load(root))


def _processors(root: Path, cpus: Collection[int]) -> tuple[float | None, float | None, float | None]:
    """Seconds busy here, busy elsewhere and stolen here. Fields as in proc(5): user nice system idle iowait irq ..."""
    here = elsewhere = stolen = 0
    found = False
    for line in read_text(root / "proc/stat").splitlines():
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
    fields = read_text(root / "proc/self/stat").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS if len(fields) > 15 else None


def _preempted(root: Path) -> int | None:
    found = list[int]()
    for status in _matches(root / "proc/self/task", "*/status"):
        for line in read_text(status).splitlines():
            if line.startswith("nonvoluntary_ctxt_switches:"):
                found.append(int(line.split()[1]))
    return sum(found) if found else None


def _load(root: Path) -> float | None:
    fields = read_text(root / "proc/loadavg").split()
    return float(fields[0]) if fields else None


def thermal_events(root: Path) -> int | None:
    """Times CPUs were slowed for their heat (x86), plus the steps at which cooling holds them now (ARM boards)."""
    counts = _matches(root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/*_throttle_count")
    steps = [
        kind.with_name("cur_state")
        for kind in _matches(root / "sys/class/thermal", "cooling_device*/type")
        if "cpufreq" in (name := read_text(kind).lower()) or name == "processor"
    ]
    found = [int(text) for path in (*counts, *steps) if (text := read_text(path)).isdecimal()]
    return sum(found) if found else None


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


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    return folder.glob(pattern) if folder.is_dir() else iter(())

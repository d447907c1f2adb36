"""A made-up machine: files of /proc and /sys under a folder, whose counters a test moves on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

TICKS = 100


@dataclass
class Machine:
    """Two CPUs, of which the process may use the first. Times are in seconds since it was switched on.

    Args:
        root: An empty folder.
    """

    root: Path
    busy: dict[int, float] = field(default_factory=lambda: {0: 50.0, 1: 50.0})
    stolen: float = 0.0
    own: float = 10.0
    children: float = 0.0
    preempted: tuple[int, ...] = (5, 7)
    load: float = 0.5
    mhz: float | None = 3000.0
    hot: int | None = 0
    written: dict[str, str] = field(default_factory=dict)

    def put(self, path: str, text: str) -> None:
        """Write one file, unless it says that already."""
        if self.written.get(path) == text:
            return
        self.written[path] = text
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="ascii")

    def write(self) -> Machine:
        """Put the state in the files."""
        self.put("proc/loadavg", f"{self.load} 0.40 0.30 1/100 1234\n")
        lines = ["cpu 1 1 1 1 1 1 1 1 0 0"]
        for cpu, seconds in self.busy.items():
            # a fifth of the busy time in each of user, nice, system, irq and softirq; guest time is in user already
            fifth, stolen = round(seconds * TICKS / 5), round(self.stolen * TICKS) if cpu == 0 else 0
            lines.append(f"cpu{cpu} {fifth} {fifth} {fifth} 99999 77 {fifth} {fifth} {stolen} {fifth} 0")
        self.put("proc/stat", "\n".join([*lines, "intr 1", "ctxt 12"]) + "\n")
        half, child = round(self.own * TICKS / 2), round(self.children * TICKS / 2)
        before = "S 1 1 1 0 -1 4194304 100 0 0 0"
        self.put("proc/self/stat", f"77 (a (strange) name) {before} {half} {half} {child} {child} 20 0 2 0 500\n")
        for thread, count in enumerate(self.preempted):
            status = f"Name:\tx\nvoluntary_ctxt_switches:\t99999\nnonvoluntary_ctxt_switches:\t{count}\n"
            self.put(f"proc/self/task/{thread}/status", status)
        if self.mhz is not None:
            self.put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", f"{round(self.mhz * 1e3)}\n")
            self.put("sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "9999000\n")
        if self.hot is not None:
            self.put("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", f"{self.hot}\n")
        return self

    def quota(self, cpus: float, stopped: float) -> None:
        """A control group of version 2 with a limit, stopped for so many seconds until now."""
        self.put("proc/self/cgroup", "0::/pod/box\n")
        self.put("sys/fs/cgroup/pod/box/cpu.max", f"{round(cpus * 100_000)} 100000\n")
        self.put(
            "sys/fs/cgroup/pod/box/cpu.stat", f"nr_periods 90\nnr_throttled 9\nthrottled_usec {stopped * 1e6:.0f}\n"
        )

"""ControlGroup: what a container or service manager allows this process (Linux control groups, versions 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BASE = "sys/fs/cgroup"

_UNLIMITED = 2**60
"""Version 1 writes "no limit" as the largest whole number of pages."""


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """Limits, and how often they were felt. Limits of the groups above hold too: the smallest counts.

    Args:
        cpus: CPUs' worth of time in each period, or ``None`` for no limit.
        memory_bytes: Most memory, or ``None`` for no limit.
        throttled: Periods in which the group was stopped because its time was used up; ``None`` where not told.
        throttled_seconds: How long it was stopped, all CPUs together; ``None`` where not told.

    Source: the kernel's documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc.
    """

    cpus: float | None = None
    memory_bytes: int | None = None
    throttled: int | None = None
    throttled_seconds: float | None = None

    @classmethod
    def read(cls, root: Path = Path("/")) -> ControlGroup:
        """Of this process, now.

        Args:
            root: Root of the file system; another one in tests.
        """
        cpu, memory = list(_folders(root, "cpu")), list(_folders(root, "memory"))
        stats = [stat for folder in cpu if (stat := _stat(folder))]
        quotas = [quota for folder in cpu if (quota := _quota(folder)) is not None]
        limits = [most for folder in memory if (most := _most_memory(folder)) is not None]
        return cls(
            cpus=min(quotas, default=None),
            memory_bytes=min(limits, default=None),
            throttled=sum(stat["nr_throttled"] for stat in stats) if stats else None,
            throttled_seconds=sum(_seconds(stat) for stat in stats) if stats else None,
        )


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The group's folder and those above it; of both versions where both are mounted."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        bases = (root / _BASE / names, root / _BASE / controller) if names else (root / _BASE,)
        base = next((folder for folder in bases if folder.is_dir()), None)
        if base is None:
            continue
        # Seen from inside a container the place can lie outside of what is mounted; then the base is the group.
        parts = [part for part in place.split("/") if part]
        if ".." in parts or not base.joinpath(*parts).is_dir():
            parts = []
        yield from (base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _quota(folder: Path) -> float | None:
    line = _text(folder / "cpu.max")
    if line:
        limit, _, period = line.partition(" ")
        return None if limit == "max" else int(limit) / int(period or 100_000)
    limit, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    return int(limit) / int(period) if limit and period and int(limit) > 0 else None


def _most_memory(folder: Path) -> int | None:
    text = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
    if not text or text == "max" or int(text) >= _UNLIMITED:
        return None
    return int(text)


def _stat(folder: Path) -> dict[str, int]:
    """``cpu.stat``; empty where it says nothing of throttling."""
    pairs = [line.split() for line in _text(folder / "cpu.stat").splitlines()]
    found = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    return found if "nr_throttled" in found else {}


def _seconds(stat: dict[str, int]) -> float:
    """Microseconds in version 2, nanoseconds in version 1."""
    return stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

"""Room: the memory, disk space and open files that this process may have, and whether joules are counted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Room"]


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes and numbers; ``None`` where the machine does not say.

    Args:
        memory: Of the machine.
        memory_free: That could be had now without swapping.
        memory_limit: That the control group allows, or ``None`` for no limit.
        cache: Where fetched and converted files are kept.
        cache_free: Space on its disk.
        cache_writable: Whether files can be made there.
        shared: Space in /dev/shm, through which worker processes hand pictures over.
        files: Files that a process may open.
        files_most: What it may raise that to.
        energy: The counters of the CPU's energy, or why they cannot be read.
    """

    memory: int | None
    memory_free: int | None
    memory_limit: int | None
    cache: str
    cache_free: int | None
    cache_writable: bool
    shared: int | None
    files: int | None
    files_most: int | None
    energy: str

    @classmethod
    def gather(cls, root: Path = Path("/")) -> Room:
        """Look now.

        Args:
            root: Of the file system of /proc, /sys and /dev; another one in tests.
        """
        from tavt_kit.bench.energy_counters import Rapl
        from tavt_kit.core.control_group import ControlGroup
        from tavt_kit.data.packages import cache_folder

        meter = Rapl.found(root)
        memory, cache = _memory(root), cache_folder()
        there = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
        files, most = _files()
        return cls(
            memory=memory.get("MemTotal"),
            memory_free=memory.get("MemAvailable"),
            memory_limit=ControlGroup.read(root).memory_bytes,
            cache=str(cache),
            cache_free=_free(there),
            cache_writable=os.access(there, os.W_OK | os.X_OK),
            shared=_free(root / "dev/shm"),
            files=files,
            files_most=most,
            energy=meter.reason or meter.source,
        )

    def as_record(self) -> dict[str, Any]:
        """For a JSON record."""
        return asdict(self)


def _memory(root: Path) -> Mapping[str, int]:
    """/proc/meminfo in bytes."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if value.split()}


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _files() -> tuple[int | None, int | None]:
    try:
        import resource
    except ImportError:  # no such thing on Windows
        return None, None
    return resource.getrlimit(resource.RLIMIT_NOFILE)

"""What a process may have of this machine, and what is missing or in the way, each with the command that mends it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.core.codec import Record

if TYPE_CHECKING:
    from tavt_kit.core.host import HostFacts

_FILES = 1024
"""Open files a training run may need: a few for each worker process and each image on its way."""

_ENOUGH = 65536

_SHARED = 256 * 2**20
"""Bytes of /dev/shm: two batches a worker of 64 images at 224 px are 77 MB."""

_DISK = 2**30
"""Bytes for the cache: the downloads of ``fit elpv`` and what is made of them are 400 MB."""

_INTEL = "0x8086"

_SLOW_GOVERNORS = ("powersave", "conservative", "ondemand", "schedutil")


@dataclass(frozen=True, slots=True)
class Room(Record):
    """Bytes and numbers; ``None`` where the machine does not say.

    Args:
        memory: Of the machine.
        memory_free: That could be had now without swapping.
        memory_limit: That the control group allows, or ``None`` for no limit.
        cache: Where fetched and converted files are kept.
        cache_free: Space on its disk.
        cache_writable: Whether files can be made there.
        shared: Space in /dev/shm, through which worker processes hand images over.
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
        from tavt_kit.bench.energy import Rapl
        from tavt_kit.core.device import ControlGroup
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


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """Something to mend.

    Args:
        what: One sentence.
        command: For a shell.
        optional: Whether everything works without it.
    """

    what: str
    command: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look.

    Args:
        facts: Of the host.
        room: Its memory, disk and files.
        refused: Target -> why it cannot be used; empty where it can.
        root: Of the file system; another one in tests.
    """

    facts: HostFacts
    room: Room
    refused: Mapping[str, str]
    root: Path = Path("/")

    def files(self, folder: str, pattern: str) -> list[Path]:
        """What lies there."""
        return sorted((self.root / folder).glob(pattern)) if (self.root / folder).is_dir() else []

    def has_intel(self, folder: str, pattern: str) -> bool:
        """Whether one of these files of devices' vendors says Intel."""
        return any(_text(path) == _INTEL for path in self.files(folder, pattern))


def findings(place: Place) -> list[Finding]:
    """All of them, what is needed first."""
    found = [one for look in (_packages, _nvidia, _intel, _limits, _quiet) for one in look(place)]
    return sorted(found, key=lambda one: one.optional)


def _packages(place: Place) -> Iterator[Finding]:
    """Requirements that are not installed, as the installed distribution lists them."""
    try:
        listed = requires("tavt-kit") or []
    except PackageNotFoundError:  # a checkout on the path, never installed
        return
    missing, extras = list[str](), set[str]()
    for line in listed:
        requirement, _, condition = (part.strip() for part in line.partition(";"))
        extra = re.search(r"extra == ['\"](\w+)['\"]", condition)
        name = re.match(r"[\w.-]+", requirement)
        if name is None or _has(name[0]) or (extra and extra[1] == "dev"):
            continue
        if extra:
            extras.add(extra[1])
        elif not condition:
            missing.append(requirement)
    if missing:
        wanted = " ".join(f"'{one}'" for one in missing)
        yield Finding(f"not installed: {', '.join(missing)}", f"pip install {wanted}")
    for extra_name in sorted(extras):
        what = f"the extra {extra_name!r} ({_EXTRAS.get(extra_name, 'see pyproject.toml')}) is not installed"
        yield Finding(what, f"pip install 'tavt-kit[{extra_name}]'", optional=True)


_EXTRAS = {"frames": "results as pandas frames", "distributed": "search on several machines"}


def _has(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _nvidia(place: Place) -> Iterator[Finding]:
    if not place.files("dev", "nvidia[0-9]*"):
        return
    if place.refused.get("torch:cuda:0"):
        yield Finding(
            "an NVIDIA GPU is here, but this torch does not see it",
            "pip install --force-reinstall 'torch>=2.6,<2.14' 'torchvision<0.29'",
        )
    if place.refused.get("onnxruntime:cuda"):
        yield Finding(
            "an NVIDIA GPU is here, but this onnxruntime cannot use it", "pip install onnxruntime-gpu", optional=True
        )
    if find_spec("pynvml") is None and shutil.which("nvidia-smi") is None:
        yield Finding("the energy of the NVIDIA GPU cannot be read", "pip install nvidia-ml-py", optional=True)


def _intel(place: Place) -> Iterator[Finding]:
    """Intel's GPUs and NPUs are seen by OpenVINO only with their drivers, and by users who may open them."""
    if place.refused.get("openvino:gpu") and place.has_intel("sys/class/drm", "renderD*/device/vendor"):
        devices = place.files("dev/dri", "renderD*")
        if devices and not any(os.access(device, os.R_OK | os.W_OK) for device in devices):
            command = "sudo usermod -aG render $USER"
            yield Finding("an Intel GPU is here, but this user may not open it (log in anew afterwards)", command)
        else:
            yield Finding("an Intel GPU is here without its driver", "sudo apt-get install intel-opencl-icd")
    if place.refused.get("openvino:npu") and place.has_intel("sys/class/accel", "accel*/device/vendor"):
        yield Finding("an Intel NPU is here without its driver", "sudo snap install intel-npu-driver")


def _limits(place: Place) -> Iterator[Finding]:
    room, facts = place.room, place.facts
    if room.files is not None and room.files < _FILES:
        yield Finding(f"a process may open {room.files} files only, too few for training", _more_files(room))
    if not room.cache_writable:
        yield Finding(f"the cache {room.cache} cannot be written", "export FGVC_KIT_CACHE=/a/folder/of/yours")
    elif room.cache_free is not None and room.cache_free < _DISK:
        free = f"{room.cache_free / 1e6:.0f} MB"
        yield Finding(
            f"the disk of the cache {room.cache} has {free} left", "export FGVC_KIT_CACHE=/a/folder/with/space"
        )
    if room.shared is not None and room.shared < _SHARED:
        yield Finding(
            f"/dev/shm has {room.shared / 1e6:.0f} MB, too little for the worker processes of training",
            "sudo mount -o remount,size=1g /dev/shm",
        )
    if facts.quota is not None and facts.quota < len(facts.affinity):
        threads = max(1, int(facts.quota))
        yield Finding(
            f"the control group allows {facts.quota:.3g} CPUs' time of the {len(facts.affinity)} CPUs in sight, and "
            "stops what takes more: ask for fewer threads",
            f"fgvc-kit bench ... --target openvino:cpu:threads={threads}",
        )


def _more_files(room: Room) -> str:
    """A shell raises its own limit as far as it is allowed; beyond that root does it."""
    most = room.files_most or 0
    if 0 <= most < _FILES:
        return f"sudo prlimit --pid $$ --nofile={_ENOUGH}"
    return f"ulimit -n {_ENOUGH if most < 0 else min(most, _ENOUGH)}"


def _quiet(place: Place) -> Iterator[Finding]:
    """What makes measurements less sure, or leaves something out of them."""
    if place.facts.governor in _SLOW_GOVERNORS:
        yield Finding(
            f"the CPUs' governor is {place.facts.governor}: clocks, and so times, may move",
            "sudo cpupower frequency-set --governor performance",
            optional=True,
        )
    zones = place.files("sys/class/powercap", "intel-rapl:*/energy_uj")
    if zones and not all(_text(zone) for zone in zones):
        yield Finding(
            "the energy counters are readable by root only",
            "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj",
            optional=True,
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


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

"""doctor: what this machine can do, and what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tavt_kit.core.codec import Record
from tavt_kit.core.device import RUNTIMES, ControlGroup, TargetDevice, read_text
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import label_record
from tavt_kit.errors import TavtError
from tavt_kit.evaluation.frames import Frame, frame

_CUDA = "torch:cuda"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DoctorResult:
    """What a machine can do; ``refused`` says why each target cannot be used, and is empty where it can."""

    host: HostFacts
    room: Room
    refused: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> tuple[str, ...]:
        """The targets that can be used."""
        return tuple(text for text, reason in self.refused.items() if not reason)

    @property
    def record(self) -> Mapping[str, Any]:
        """Everything, JSON-ready; no file is written."""
        targets = {text: {"usable": not reason, "reason": reason} for text, reason in self.refused.items()}
        missing = [finding.as_record() for finding in self.findings]
        body = {"host": self.host.as_record(), "room": self.room.as_record(), "targets": targets, "findings": missing}
        return label_record("doctor", body)

    def to_frame(self) -> Frame:
        """One line a target: whether it can be used, and why not."""
        return frame([{"target": text, **facts} for text, facts in self.record["targets"].items()])

    def __repr__(self) -> str:
        return f"<doctor: {', '.join(self.usable) or 'no target'} usable, {len(self.findings)} findings>"


def doctor() -> DoctorResult:
    """Find out what this machine can do, and what is missing.

    Example:
        >>> doctor().usable  # doctest: +SKIP
        ('torch:cpu', 'openvino:cpu', 'onnxruntime:cpu')
    """
    from tavt_kit.runtimes import check_available
    from tavt_kit.runtimes.available import accelerator_name

    refused = {f"{name}:{processor}": "" for name, facts in RUNTIMES.items() for processor in facts.processors}
    for text in refused:
        try:
            check_available(TargetDevice.parse(text))
        except TavtError as error:
            refused[text] = str(error)
    host = HostFacts.gather(None if refused[_CUDA] else accelerator_name(TargetDevice.parse(_CUDA)))
    room = Room.gather()
    return DoctorResult(host, room, refused, tuple(findings(host, room, refused)))


_SHARED = 256 * 2**20  # Bytes of /dev/shm: two batches a worker of 64 images at 224 px are 77 MB
_DISK = 2**30  # Bytes for the cache: the downloads of ``fit elpv`` and what is made of them are 400 MB
_INTEL = "0x8086"
_TORCH = "'torch>=2.6,<2.14'"
_SLOW_GOVERNORS = ("powersave", "conservative", "ondemand", "schedutil")


@dataclass(frozen=True, slots=True)
class Room(Record):
    """Bytes; ``None`` where the machine does not say.

    Args:
        memory_free: Memory that could be had now without swapping.
        memory_limit: Memory that the control group allows, or ``None`` for no limit.
        cache: Folder of fetched and converted files.
        shared: Space in /dev/shm, through which worker processes hand images over.
    """

    memory: int | None
    memory_free: int | None
    memory_limit: int | None
    cache: str
    cache_free: int | None
    cache_writable: bool
    shared: int | None

    @classmethod
    def gather(cls, root: Path = Path("/")) -> Room:
        """Look now."""
        from tavt_kit.data.packages import cache_folder

        cache = cache_folder()
        there = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
        pairs = (line.partition(":")[::2] for line in read_text(root / "proc/meminfo").splitlines())
        memory = {name: int(value.split()[0]) * 1024 for name, value in pairs if value.split()}
        return cls(
            memory.get("MemTotal"), memory.get("MemAvailable"), ControlGroup.read(root).memory_bytes, str(cache),
            _free(there), os.access(there, os.W_OK | os.X_OK), _free(root / "dev/shm"),
        )  # fmt: skip


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """Something to mend; ``optional`` where everything works without it."""

    what: str
    command: str
    optional: bool = False


def findings(host: HostFacts, room: Room, refused: Mapping[str, str], root: Path = Path("/")) -> list[Finding]:
    """All of them, what is needed first."""
    torch = Finding("nothing trains, searches or exports without torch", f"pip install {_TORCH}")
    everything = [*([torch] if refused.get("torch:cpu") else []), *_devices(refused, root), *_limits(host, room)]
    return sorted(everything, key=lambda finding: finding.optional)


def _devices(refused: Mapping[str, str], root: Path) -> Iterator[Finding]:
    """GPUs and NPUs that no runtime sees: for want of a build, a driver, or the right to open them."""

    def is_intel(devices: str) -> bool:
        return any(read_text(path) == _INTEL for path in root.glob(devices))

    if any((root / "dev").glob("nvidia[0-9]*")):
        if refused.get(_CUDA):
            command = f"pip install --force-reinstall {_TORCH} 'torchvision<0.29'"
            yield Finding("an NVIDIA GPU is here, but this torch does not see it", command)
        if refused.get("onnxruntime:cuda"):
            what = "an NVIDIA GPU is here, but this onnxruntime cannot use it"
            yield Finding(what, "pip install onnxruntime-gpu", optional=True)
        if find_spec("pynvml") is None:
            yield Finding("the clock of the NVIDIA GPU cannot be watched", "pip install nvidia-ml-py", optional=True)
    if refused.get("openvino:gpu") and is_intel("sys/class/drm/renderD*/device/vendor"):
        devices = list((root / "dev/dri").glob("renderD*"))
        if devices and not any(os.access(device, os.R_OK | os.W_OK) for device in devices):
            what = "an Intel GPU is here, but this user may not open it (log in anew afterwards)"
            yield Finding(what, "sudo usermod -aG render $USER")
        else:
            yield Finding("an Intel GPU is here without its driver", "sudo apt-get install intel-opencl-icd")
    if refused.get("openvino:npu") and is_intel("sys/class/accel/accel*/device/vendor"):
        yield Finding("an Intel NPU is here without its driver", "sudo snap install intel-npu-driver")


def _limits(facts: HostFacts, room: Room) -> Iterator[Finding]:
    """What is too little, and what makes measurements less sure."""
    if not room.cache_writable:
        yield Finding(f"the cache {room.cache} cannot be written", "export FGVC_KIT_CACHE=/a/folder/of/yours")
    elif room.cache_free is not None and room.cache_free < _DISK:
        what = f"the disk of the cache {room.cache} has {room.cache_free / 1e6:.0f} MB left"
        yield Finding(what, "export FGVC_KIT_CACHE=/a/folder/with/space")
    if room.shared is not None and room.shared < _SHARED:
        what = f"/dev/shm has {room.shared / 1e6:.0f} MB, too little for the worker processes of training"
        yield Finding(what, "sudo mount -o remount,size=1g /dev/shm")
    if facts.quota is not None and facts.quota < len(facts.affinity):
        yield Finding(
            f"the control group allows {facts.quota:.3g} CPUs' time of the {len(facts.affinity)} CPUs in sight, and "
            "stops what takes more: ask for fewer threads",
            f"fgvc-kit bench ... --target openvino:cpu:threads={max(1, int(facts.quota))}",
        )
    if facts.governor in _SLOW_GOVERNORS:
        what = f"the CPUs' governor is {facts.governor}: clocks, and so times, may move"
        yield Finding(what, "sudo cpupower frequency-set --governor performance", optional=True)

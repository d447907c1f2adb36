"""doctor: what this machine can do, and what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.codec import Record
from tavt_kit.core.device import ControlGroup, TargetDevice, read_text
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import label_record
from tavt_kit.errors import TavtError
from tavt_kit.evaluation.frames import frame

if TYPE_CHECKING:
    import pandas

_CUDA = "torch:cuda:0"

TARGETS = (
    "torch:cpu", _CUDA, "openvino:cpu", "openvino:gpu", "openvino:npu", "onnxruntime:cpu", "onnxruntime:cuda",
    "onnxruntime:tensorrt",
)  # fmt: skip
"""Those that are tried."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DoctorResult:
    """What a machine can do.

    Args:
        refused: Why each target cannot be used; empty where it can.
    """

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
        body = {
            "host": self.host.as_record(),
            "room": self.room.as_record(),
            "targets": {text: {"usable": not reason, "reason": reason} for text, reason in self.refused.items()},
            "findings": [finding.as_record() for finding in self.findings],
        }
        return label_record("doctor", body)

    def to_frame(self) -> pandas.DataFrame:
        """One line a target: whether it can be used, and why not."""
        return frame([{"target": text, **found} for text, found in self.record["targets"].items()])

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

    refused = dict.fromkeys(TARGETS, "")
    for text in TARGETS:
        try:
            check_available(TargetDevice.parse(text))
        except TavtError as error:
            refused[text] = str(error)
    host = HostFacts.gather(None if refused[_CUDA] else accelerator_name(TargetDevice.parse(_CUDA)))
    room = Room.gather()
    return DoctorResult(host, room, refused, tuple(findings(host, room, refused)))


_FILES = 1024  # Open files a training run may need: a few for each worker process and each image on its way
_ENOUGH = 65536
_SHARED = 256 * 2**20  # Bytes of /dev/shm: two batches a worker of 64 images at 224 px are 77 MB
_DISK = 2**30  # Bytes for the cache: the downloads of ``fit elpv`` and what is made of them are 400 MB
_INTEL = "0x8086"
_SLOW_GOVERNORS = ("powersave", "conservative", "ondemand", "schedutil")


@dataclass(frozen=True, slots=True)
class Room(Record):
    """Bytes and numbers; ``None`` where the machine does not say.

    Args:
        memory_free: Memory that could be had now without swapping.
        memory_limit: Memory that the control group allows, or ``None`` for no limit.
        cache: Folder of fetched and converted files.
        cache_writable: Whether files can be made there.
        shared: Space in /dev/shm, through which worker processes hand images over.
        files: Files that a process may open.
        files_most: Highest value it may raise ``files`` to.
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

    @classmethod
    def gather(cls, root: Path = Path("/")) -> Room:
        """Look now."""
        from tavt_kit.data.packages import cache_folder

        cache = cache_folder()
        there = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
        pairs = (line.partition(":")[::2] for line in read_text(root / "proc/meminfo").splitlines())
        memory = {name: int(value.split()[0]) * 1024 for name, value in pairs if value.split()}
        try:
            import resource

            files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        except ImportError:  # no such thing on Windows
            files, most = None, None
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
        )


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """Something to mend.

    Args:
        optional: Whether everything works without it.
    """

    what: str
    command: str
    optional: bool = False


def findings(host: HostFacts, room: Room, refused: Mapping[str, str], root: Path = Path("/")) -> list[Finding]:
    """All of them, what is needed first."""
    everything = [*_devices(refused, root), *_limits(host, room), *_quiet(host)]
    return sorted(everything, key=lambda finding: finding.optional)


def _devices(refused: Mapping[str, str], root: Path) -> Iterator[Finding]:
    """GPUs and NPUs that no runtime sees: for want of a build, a driver, or the right to open them."""
    if any((root / "dev").glob("nvidia[0-9]*")):
        if refused.get(_CUDA):
            torch = "pip install --force-reinstall 'torch>=2.6,<2.14' 'torchvision<0.29'"
            yield Finding("an NVIDIA GPU is here, but this torch does not see it", torch)
        if refused.get("onnxruntime:cuda"):
            what = "an NVIDIA GPU is here, but this onnxruntime cannot use it"
            yield Finding(what, "pip install onnxruntime-gpu", optional=True)
        if find_spec("pynvml") is None:
            yield Finding("the energy of the NVIDIA GPU cannot be read", "pip install nvidia-ml-py", optional=True)
    intel = {
        kind: any(read_text(path) == _INTEL for path in (root / folder).glob(pattern))
        for kind, folder, pattern in (
            ("gpu", "sys/class/drm", "renderD*/device/vendor"),
            ("npu", "sys/class/accel", "accel*/device/vendor"),
        )
    }
    if refused.get("openvino:gpu") and intel["gpu"]:
        devices = list((root / "dev/dri").glob("renderD*"))
        if devices and not any(os.access(device, os.R_OK | os.W_OK) for device in devices):
            command = "sudo usermod -aG render $USER"
            yield Finding("an Intel GPU is here, but this user may not open it (log in anew afterwards)", command)
        else:
            yield Finding("an Intel GPU is here without its driver", "sudo apt-get install intel-opencl-icd")
    if refused.get("openvino:npu") and intel["npu"]:
        yield Finding("an Intel NPU is here without its driver", "sudo snap install intel-npu-driver")


def _limits(facts: HostFacts, room: Room) -> Iterator[Finding]:
    if room.files is not None and room.files < _FILES:
        most = room.files_most or 0  # a shell raises its own limit as far as it is allowed; beyond that root does it
        raised = f"ulimit -n {_ENOUGH if most < 0 else min(most, _ENOUGH)}"
        command = f"sudo prlimit --pid $$ --nofile={_ENOUGH}" if 0 <= most < _FILES else raised
        yield Finding(f"a process may open {room.files} files only, too few for training", command)
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


def _quiet(facts: HostFacts) -> Iterator[Finding]:
    """What makes measurements less sure."""
    if facts.governor in _SLOW_GOVERNORS:
        what = f"the CPUs' governor is {facts.governor}: clocks, and so times, may move"
        yield Finding(what, "sudo cpupower frequency-set --governor performance", optional=True)


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None

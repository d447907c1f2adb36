"""doctor: what this machine can do, how fast, and what is missing."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.codec import Record
from tavt_kit.core.device import ControlGroup, TargetDevice, available_threads, read_text
from tavt_kit.core.host import HostFacts
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import label_record
from tavt_kit.errors import TavtError
from tavt_kit.evaluation.frames import frame

if TYPE_CHECKING:
    import pandas

    from tavt_kit.bench.noise import Watch
    from tavt_kit.bench.parts import WholeGraphs

_CUDA = "torch:cuda:0"

TARGETS = (
    "torch:cpu", _CUDA, "openvino:cpu", "openvino:gpu", "openvino:npu", "onnxruntime:cpu", "onnxruntime:cuda",
    "onnxruntime:tensorrt",
)  # fmt: skip
"""Those that are tried."""
REFERENCE = "vit_small_patch16_224"
"""Everybody's small Vision Transformer; 4.6 G multiply-adds at 224 pixels."""
CLEARLY = 1.1
"""Times as fast that counts as faster."""

_PEAK_SECONDS = 1.5
_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DoctorResult:
    """What a machine can do.

    Args:
        room: Memory, disk and files that this process may have.
        refused: Why each target cannot be used; empty where it can.
        speed: Peaks and the reference model's latencies, as ``measure_speed`` records them; ``None`` where nothing was
            measured.
        findings: Things that are missing or in the way, those needed first.
    """

    host: HostFacts
    room: Room
    refused: Mapping[str, str]
    speed: Mapping[str, Any] | None
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
            "speed": self.speed,
            "findings": [finding.as_record() for finding in self.findings],
        }
        return label_record("doctor", body)

    def to_frame(self) -> pandas.DataFrame:
        """One line a target: whether it can be used, and why not.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame([{"target": text, **found} for text, found in self.record["targets"].items()])

    def __repr__(self) -> str:
        return f"<doctor: {', '.join(self.usable) or 'no target'} usable, {len(self.findings)} findings>"


def doctor(*, fast: bool = False, progress: Progress | None = None) -> DoctorResult:
    """Find out what this machine can do, how fast it is, and what is missing.

    Args:
        fast: Whether all measuring is left out, which takes half a minute.
        progress: Told what is measured.

    Example:
        >>> doctor(fast=True).usable  # doctest: +SKIP
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
    found = tuple(findings(host, room, refused))
    speed = None
    if not fast:
        usable = [text for text, reason in refused.items() if not reason]
        speed = measure_speed(usable, Silent() if progress is None else progress)
    return DoctorResult(host, room, refused, speed, found)


def measure_speed(usable: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Peaks for one thread and for all, and the reference model's latency.

    Returns:
        For the record: ``peaks``, ``bf16_in_torch`` (what training and search go by; ``None`` without torch),
        ``reference`` and ``noise``.
    """
    from tavt_kit.bench.energy import gpu_state
    from tavt_kit.bench.noise import Watch
    from tavt_kit.bench.peaks import measure_peaks

    parsed, peaks, bf16 = [TargetDevice.parse(text) for text in usable], list[dict[str, Any]](), None
    # The CPU with one thread and with all that are allowed, then the other devices, each once.
    processors = [target for target in parsed if not target.is_cpu and target.processor != "tensorrt"]
    if any(target.is_cpu for target in parsed):
        threads = dict.fromkeys((1, available_threads()))
        processors = [*(TargetDevice("torch", "cpu", threads=number) for number in threads), *processors]
    with Watch(gpu=gpu_state(TargetDevice.parse(_CUDA)) if _CUDA in usable else None) as watch:
        for target in processors:
            name = target.processor if target.threads is None else f"cpu, threads={target.threads}"
            progress.update(f"measuring peaks of {name}")
            try:
                found = measure_peaks(target, seconds=_PEAK_SECONDS).as_record()
                peaks.append({**found, "gains": precision_gains(found["gflops"])})
                watch.turn()
            except TavtError as error:
                peaks.append({"processor": target.processor, "threads": target.threads, "reason": str(error)})
        if "torch:cpu" in usable:
            import torch

            from tavt_kit.runtimes.on_torch import is_bf16_faster

            bf16 = is_bf16_faster(torch.device("cpu"))
        reference = _reference(parsed, progress, watch)
    return {"peaks": peaks, "bf16_in_torch": bf16, "reference": reference, "noise": watch.verdict().as_record()}


def precision_gains(gflops: dict[str, float]) -> dict[str, float]:
    """How many times as fast as f32 each other precision multiplies."""
    whole = gflops.get("f32")
    return {} if not whole else {name: speed / whole for name, speed in gflops.items() if name != "f32"}


def _reference(usable: Sequence[TargetDevice], progress: Progress, watch: Watch) -> dict[str, Any]:
    """Dense, by the lean path that exports take, weights at random; in turns; what cannot be opened says why."""
    if find_spec("torch") is None or find_spec("timm") is None:
        return {"model": REFERENCE, "reason": "needs torch and timm to be built", "rows": []}
    import numpy as np
    import torch

    from tavt_kit.bench import Protocol, bench, random_images
    from tavt_kit.bench.latency_table import open_schedule
    from tavt_kit.models.timm_import import timm
    from tavt_kit.models.wrap import wrap
    from tavt_kit.runtimes import check_available
    from tavt_kit.runtimes.suppress_output import suppress_output

    targets = list[TargetDevice]()
    for target in usable:  # each in f32, and in bf16 where OpenVINO or CUDA offers that
        targets.append(target)
        if (target.runtime, target.processor) in (("openvino", "cpu"), ("torch", "cuda")):
            with suppress(TavtError):
                check_available(replace(target, precision="bf16"))
                targets.append(replace(target, precision="bf16"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = wrap(timm.create_model(REFERENCE, pretrained=False).eval())
    graphs: dict[str, WholeGraphs] = defaultdict(dict)  # converted once for all precisions of a runtime
    sessions, refused = dict[str, Any](), list[dict[str, Any]]()
    for target in targets:
        progress.update(f"measuring {REFERENCE} on {target}")
        try:
            with suppress_output():
                known, dense = graphs[target.runtime], model.dense_schedule
                sessions[str(target)] = open_schedule(model, target, _SHAPE[2:], dense, known)
        except TavtError as error:
            refused.append({"target": str(target), "reason": str(error)})
    progress.update(f"measuring {REFERENCE}, in turns")
    protocol = Protocol(min_seconds=0.5, max_seconds=1.5, min_runs=6, warmup_seconds=0.5, visit_seconds=0.1)
    images, begin, rows = random_images(_SHAPE, np.random.default_rng(0)), time.perf_counter(), list[dict[str, Any]]()
    for name, one in (bench(sessions, images, protocol, on_round=watch.turn) if sessions else {}).items():
        record = one.as_record()
        kept = {key: record[key] for key in ("median", "p90", "steady", "first_ms", "load_ms")}
        rows.append({"target": name, "precision": sessions[name].target.precision, **kept})
    return {"model": REFERENCE, "seconds": time.perf_counter() - begin, "rows": [*rows, *refused]}


_FILES = 1024  # Open files a training run may need: a few for each worker process and each image on its way
_ENOUGH = 65536
_SHARED = 256 * 2**20  # Bytes of /dev/shm: two batches a worker of 64 images at 224 px are 77 MB
_DISK = 2**30  # Bytes for the cache: the downloads of ``fit elpv`` and what is made of them are 400 MB
_INTEL = "0x8086"
_SLOW_GOVERNORS = ("powersave", "conservative", "ondemand", "schedutil")
_EXTRAS = {"frames": "results as pandas frames", "distributed": "search on several machines"}


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
        """Look now."""
        from tavt_kit.bench.energy import energy_meter
        from tavt_kit.data.packages import cache_folder

        meter, cache = energy_meter(TargetDevice("torch", "cpu"), root), cache_folder()
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
            energy=meter.reason or meter.source,
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
    """All of them, what is needed first.

    Args:
        refused: Why each target cannot be used; empty where it can.
        root: Root of the file system; another one in tests.
    """
    found = [*_packages(), *_devices(refused, root), *_limits(host, room), *_quiet(host, root)]
    return sorted(found, key=lambda one: one.optional)


def _packages() -> Iterator[Finding]:
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
        if name is None or (extra and extra[1] == "dev"):
            continue
        try:
            version(name[0])
        except PackageNotFoundError:
            if extra:
                extras.add(extra[1])
            elif not condition:
                missing.append(requirement)
    if missing:
        wanted = " ".join(f"'{one}'" for one in missing)
        yield Finding(f"not installed: {', '.join(missing)}", f"pip install {wanted}")
    for one in sorted(extras):
        what = f"the extra {one!r} ({_EXTRAS.get(one, 'see pyproject.toml')}) is not installed"
        yield Finding(what, f"pip install 'tavt-kit[{one}]'", optional=True)


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


def _quiet(facts: HostFacts, root: Path) -> Iterator[Finding]:
    """What makes measurements less sure, or leaves something out of them."""
    if facts.governor in _SLOW_GOVERNORS:
        what = f"the CPUs' governor is {facts.governor}: clocks, and so times, may move"
        yield Finding(what, "sudo cpupower frequency-set --governor performance", optional=True)
    zones = list((root / "sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    if zones and not all(read_text(zone) for zone in zones):
        command = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        yield Finding("the energy counters are readable by root only", command, optional=True)


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None

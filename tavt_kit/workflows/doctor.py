"""doctor: what this machine can do, how fast, and what is missing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import label_record
from tavt_kit.errors import TavtError
from tavt_kit.evaluation.frames import frame
from tavt_kit.workflows.doctor_findings import Finding, Place, Room, findings

if TYPE_CHECKING:
    import pandas

    from tavt_kit.core.measurement import Measurement

_CUDA = "torch:cuda:0"

TARGETS = (
    "torch:cpu",
    _CUDA,
    "openvino:cpu",
    "openvino:gpu",
    "openvino:npu",
    "onnxruntime:cpu",
    "onnxruntime:cuda",
    "onnxruntime:tensorrt",
)
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
        host: Facts of the machine.
        room: Memory, disk and files that this process may have.
        refused: Why each target cannot be used; empty where it can.
        speed: Peaks and the reference model's latencies, as ``measure_speed`` records them; ``None`` where nothing was
            measured.
        findings: What is missing or in the way, what is needed first.
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
            "findings": [one.as_record() for one in self.findings],
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
    from tavt_kit.runtimes.available import accelerator_name

    refused = {text: _refusal(text) for text in TARGETS}
    host, room = (
        HostFacts.gather(None if refused[_CUDA] else accelerator_name(TargetDevice.parse(_CUDA))),
        Room.gather(),
    )
    found = tuple(findings(Place(host, room, refused)))
    speed = None
    if not fast:
        usable = [text for text, reason in refused.items() if not reason]
        speed = measure_speed(usable, Silent() if progress is None else progress)
    return DoctorResult(host, room, refused, speed, found)


def _refusal(text: str) -> str:
    """Empty where the target can be used, else why not."""
    from tavt_kit.runtimes import check_available

    try:
        check_available(TargetDevice.parse(text))
    except TavtError as error:
        return str(error)
    return ""


def measure_speed(usable: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Peaks for one thread and for all, and the reference model's latency.

    Args:
        usable: Texts of targets.
        progress: Told what is measured.

    Returns:
        For the record: ``peaks``, ``bf16_in_torch``, ``reference`` and ``noise``.
    """
    from tavt_kit.bench.energy import gpu_state
    from tavt_kit.bench.noise import Watch

    with Watch(gpu=gpu_state(TargetDevice.parse(_CUDA)) if _CUDA in usable else None) as watch:
        peaks = [_peaks(target, progress, watch) for target in _processors(usable)]
        bf16 = _bf16_in_torch(usable)
        reference = _reference(usable, progress, watch)
    noise = watch.verdict()
    return {"peaks": peaks, "bf16_in_torch": bf16, "reference": reference, "noise": noise.as_record()}


def precision_gains(gflops: dict[str, float]) -> dict[str, float]:
    """How many times as fast as f32 each other precision multiplies."""
    whole = gflops.get("f32")
    return {} if not whole else {name: speed / whole for name, speed in gflops.items() if name != "f32"}


def _processors(usable: Sequence[str]) -> Iterator[TargetDevice]:
    """The CPU with one thread and with all that are allowed, then the other devices, each once."""
    from tavt_kit.core.device import TargetDevice, available_threads

    parsed = [TargetDevice.parse(text) for text in usable]
    if any(target.is_cpu for target in parsed):
        for threads in dict.fromkeys((1, available_threads())):
            yield TargetDevice("torch", "cpu", threads=threads)
    yield from (target for target in parsed if not target.is_cpu and target.processor != "tensorrt")


def _peaks(target: TargetDevice, progress: Progress, watch: Any) -> dict[str, Any]:
    from tavt_kit.bench.peaks import measure_peaks
    from tavt_kit.errors import TavtError

    place = target.processor if target.threads is None else f"cpu, threads={target.threads}"
    progress.update(f"measuring peaks of {place}")
    try:
        found = measure_peaks(target, seconds=_PEAK_SECONDS).as_record()
    except TavtError as error:
        return {"processor": target.processor, "threads": target.threads, "reason": str(error)}
    watch.turn()
    return {**found, "gains": precision_gains(found["gflops"])}


def _bf16_in_torch(usable: Sequence[str]) -> bool | None:
    """What training and search go by (``auto``); ``None`` without torch."""
    if "torch:cpu" not in usable:
        return None
    import torch

    from tavt_kit.runtimes.on_torch import is_bf16_faster

    return is_bf16_faster(torch.device("cpu"))


def _reference(usable: Sequence[str], progress: Progress, watch: Any) -> dict[str, Any]:
    """Measured together, in turns; what cannot be opened says why."""
    from importlib.util import find_spec

    rows = list[dict[str, Any]]()
    if find_spec("torch") is None or find_spec("timm") is None:
        return {"model": REFERENCE, "reason": "needs torch and timm to be built", "rows": rows}
    import numpy as np

    from tavt_kit.bench import Protocol, bench, random_images
    from tavt_kit.errors import TavtError

    opener, sessions = _Opener(), dict[str, Any]()
    for target in _targets(usable):
        progress.update(f"measuring {REFERENCE} on {target}")
        try:
            sessions[str(target)] = opener.open(target)
        except TavtError as error:
            rows.append({"target": str(target), "reason": str(error)})
    progress.update(f"measuring {REFERENCE}, in turns")
    protocol = Protocol(min_seconds=0.5, max_seconds=1.5, min_runs=6, warmup_seconds=0.5, visit_seconds=0.1)
    images, begin = random_images(_SHAPE, np.random.default_rng(0)), time.perf_counter()
    found = bench(sessions, images, protocol, on_round=watch.turn) if sessions else {}
    measured = [_row(name, sessions[name], one) for name, one in found.items()]
    return {"model": REFERENCE, "seconds": time.perf_counter() - begin, "rows": [*measured, *rows]}


def _row(target: str, session: Any, found: Measurement) -> dict[str, Any]:
    record = found.as_record()
    kept = {name: record[name] for name in ("median", "p90", "steady", "first_ms", "load_ms")}
    return {"target": target, "precision": session.target.precision, **kept}


def _targets(usable: Sequence[str]) -> Iterator[TargetDevice]:
    """Each usable one in f32, and in bf16 where OpenVINO or CUDA offers that."""
    from dataclasses import replace

    from tavt_kit.core.device import TargetDevice
    from tavt_kit.errors import TavtError
    from tavt_kit.runtimes import check_available

    for text in usable:
        target = TargetDevice.parse(text)
        yield target
        if (target.runtime, target.processor) in (("openvino", "cpu"), ("torch", "cuda")):
            faster = replace(target, precision="bf16")
            try:
                check_available(faster)
            except TavtError:
                continue
            yield faster


class _Opener:
    """Opens the reference model, dense, by the lean path that exports and benches take; weights at random."""

    def __init__(self) -> None:
        import torch

        from tavt_kit.models.timm_import import timm
        from tavt_kit.models.wrap import LeanViT, wrap

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            adaptive = wrap(timm.create_model(REFERENCE, pretrained=False).eval())
        self._model = LeanViT(adaptive, adaptive.dense_schedule)
        self._graph: Any = None

    def open(self, target: TargetDevice) -> Any:
        """A session; for OpenVINO the model is converted once for all precisions."""
        from tavt_kit.runtimes import open_module
        from tavt_kit.runtimes.suppress_output import suppress_output

        with suppress_output():
            if target.runtime != "openvino":
                return open_module(self._model, target, _SHAPE)
            import torch

            from tavt_kit.bench.timing import open_graph
            from tavt_kit.runtimes.on_openvino import convert_module

            begin = time.perf_counter()
            if self._graph is None:
                self._graph = convert_module(self._model, (torch.rand((2, *_SHAPE[1:])),), [(-1, *_SHAPE[1:])])
            return open_graph(self._graph, target, begin)

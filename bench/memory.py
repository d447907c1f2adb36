"""Peak memory of one inference, in a fresh process for each candidate.

    peak = peak_memory(FileJob(path, target))                    # an exported file: numpy and its runtime, no torch
    peak = peak_memory(LiveJob("runs/x", target, schedule="taper:0.2"))
    row["memory"] = peak.as_record()

A live model on torch is measured as it is. One for onnxruntime or OpenVINO is written to a temporary file by a process
of its own first, because the memory of a conversion is not that of an inference.

A process reports the high-water mark of its resident memory, and what was resident before anything was loaded (the
interpreter, numpy and the runtime): the difference is the model's. Parent and child speak JSON over pipes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice

_CHILD = ("-P", "-m", "tavt_kit.bench.memory_child")
"""What a fresh interpreter runs; -P, so that no file of the working folder stands in for a module."""

FILE_OF = {"onnxruntime": "model.onnx", "openvino": "model.xml"}
"""By what name a model is written for a runtime."""


@dataclass(frozen=True, slots=True)
class FileJob(Record):
    """An exported file, to be run once in a fresh process.

    Args:
        path: ``.onnx`` or ``.xml``.
        target: Where to run.
        image_size: Height and width, for a file that takes any.
        lengths: Token counts, for a switchable file.
    """

    path: Path
    target: TargetDevice
    image_size: tuple[int, int] | None = None
    lengths: Sequence[int] | None = None
    kind: ClassVar[str] = "file"
    VIEWS: ClassVar[tuple[str, ...]] = ("kind",)


@dataclass(frozen=True, slots=True)
class LiveJob(Record):
    """A run folder or a model's name under one schedule, to be run once in a fresh process.

    Args:
        thing: As ``open_model`` takes it.
        target: Where to run.
        schedule: Text.
        weights, image_size, seed, score, pool, reduction: As ``open_model`` takes them.
        executed: The layers that run; ``None`` means all.
    """

    thing: str
    target: TargetDevice
    schedule: str = "dense"
    weights: str = "hub"
    image_size: int | None = None
    seed: int = 0
    score: str | None = None
    pool: str | None = None
    executed: tuple[int, ...] | None = None
    reduction: str | None = None
    kind: ClassVar[str] = "live"
    VIEWS: ClassVar[tuple[str, ...]] = ("kind",)


@dataclass(frozen=True, slots=True)
class MemoryPeak(Record):
    """Bytes resident in a process that did nothing else.

    Args:
        baseline: Before loading: the interpreter, numpy and the runtime.
        loaded: After loading and compiling.
        peak: The high-water mark of loading and the first inferences.
        device_peak: High-water mark of torch's CUDA allocator, for a CUDA target.
        reason: Why there are no numbers; empty where there are.
    """

    baseline: int | None = None
    loaded: int | None = None
    peak: int | None = None
    device_peak: int | None = None
    reason: str = ""
    VIEWS: ClassVar[tuple[str, ...]] = ("added",)

    @property
    def added(self) -> int | None:
        """What the model cost: peak minus baseline."""
        return None if self.peak is None or self.baseline is None else self.peak - self.baseline

    @property
    def counted(self) -> int | None:
        """What a budget is held against: the most in use on a CUDA device, else of the whole process."""
        return self.device_peak or self.peak

    def __str__(self) -> str:
        """For people: ``212 MB (+131 MB over the runtime)``; or why not."""
        if self.peak is None or self.added is None:
            return self.reason
        device = "" if self.device_peak is None else f", {self.device_peak / 1e6:.0f} MB on the device"
        return f"{self.peak / 1e6:.0f} MB ({self.added / 1e6:+.0f} MB over the runtime){device}"


def peak_memory(job: FileJob | LiveJob, *, seconds: float = 600.0) -> MemoryPeak:
    """Run the job in a process of its own. What goes wrong there is in ``reason``; nothing is raised.

    Args:
        job: What to run.
        seconds: Most time for each process.
    """
    record = job.as_record()
    if isinstance(job, FileJob) or job.target.runtime == "torch":
        return _peak(_answer(record, seconds))
    with tempfile.TemporaryDirectory(prefix="fgvc-kit-memory-") as folder:
        path = Path(folder) / FILE_OF[job.target.runtime]
        written = _answer({**record, "kind": "write", "path": str(path)}, seconds)
        if "error" in written:
            return _peak(written)
        size: Sequence[int] = written["image_size"]
        return _peak(_answer(FileJob(path, job.target, (size[0], size[1])).as_record(), seconds))


def _answer(record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What the child wrote; with ``error`` where it failed or died."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_path())}
    command = [sys.executable, *_CHILD]
    try:
        done = subprocess.run(
            command, input=json.dumps(record), capture_output=True, text=True, env=environment, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"error": f"the process was stopped after {seconds:g} s"}
    if done.returncode == -signal.SIGKILL:
        return {"error": "the process was killed by the system, as happens when memory runs out"}
    if done.returncode < 0:
        return {"error": f"the process died of {signal.Signals(-done.returncode).name}"}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return {"error": f"the process ended with exit code {done.returncode}: {last[0]}"}
    return found


def _path() -> list[str]:
    """Where the child finds this package, and what the user gave."""
    spec = find_spec("tavt_kit")
    assert spec is not None and spec.origin is not None  # this very package
    own = str(Path(spec.origin).resolve().parents[1])
    given = os.environ.get("PYTHONPATH")
    return [own] if not given else [own, given]


def _peak(answer: Mapping[str, Any]) -> MemoryPeak:
    if "error" in answer:
        return MemoryPeak(reason=str(answer["error"]))
    return MemoryPeak(answer["baseline"], answer["loaded"], answer["peak"], answer["device_peak"])

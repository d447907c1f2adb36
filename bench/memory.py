"""Peak memory of one inference, in a fresh process for each candidate; of a file by numpy and its runtime alone.

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
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tavt_kit.core.artifact_card import ArtifactCard
from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule, counts_text
from tavt_kit.errors import DataError, MeasurementError, TavtError

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT
    from tavt_kit.runtimes import Session

# What a fresh interpreter runs; -P, so that no file of the working folder stands in for a module.
_CHILD = ("-P", "-m", "tavt_kit.bench.memory")
_RUNS = 3  # Inferences: some runtimes allot more in the second than in the first


@dataclass(frozen=True, slots=True)
class FileJob(Record):
    """An exported file, to be run once in a fresh process.

    Args:
        path: ``.onnx`` or ``.xml``.
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
    """The model of a run folder under one schedule, to be run once by torch in a fresh process.

    Args:
        run: The folder.
        target: One of torch's.
        schedule: As text.
        executed: The layers that run; ``None`` means all.
    """

    run: str
    target: TargetDevice
    schedule: str = "dense"
    executed: tuple[int, ...] | None = None
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


def peak_memory(job: FileJob | LiveJob, *, seconds: float = 600.0) -> MemoryPeak:
    """Run the job in a process of its own. What goes wrong there is in ``reason``; nothing is raised.

    Args:
        seconds: Most time for each process.
    """
    answer = _answer(job.as_record(), seconds)
    return MemoryPeak(reason=str(answer["error"])) if "error" in answer else MemoryPeak(**answer)


def _answer(record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What the child wrote; with ``error`` where it failed or died."""
    spec = find_spec("tavt_kit")
    assert spec is not None and spec.origin is not None  # this very package
    path = [str(Path(spec.origin).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, *_CHILD], input=json.dumps(record), capture_output=True, text=True, timeout=seconds,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"the process was stopped after {seconds:g} s"}
    if done.returncode == -9:  # SIGKILL, a name that Windows lacks
        return {"error": "the process was killed by the system, as happens when memory runs out"}
    if done.returncode < 0:
        return {"error": f"the process died of {signal.Signals(-done.returncode).name}"}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return {"error": f"the process ended with exit code {done.returncode}: {last[0]}"}
    return found


def schedule_peak(model: AdaptiveViT, target: TargetDevice, schedule: TokenSchedule) -> MemoryPeak:
    """The peak of a live model under one schedule; what goes wrong is in ``reason``.

    On torch a process loads the model itself; for other runtimes the schedule is written as a file here first, because
    the memory of a conversion is not that of an inference. An int8 file is calibrated on random data: it weighs what a
    shipped one weighs.
    """
    with tempfile.TemporaryDirectory(prefix="fgvc-kit-memory-") as folder:
        if target.runtime == "torch":
            from tavt_kit.checkpoints import save_model

            save_model(Path(folder), model, model.require_card())
            return peak_memory(LiveJob(folder, target, counts_text(schedule.counts), schedule.executed))
        path = Path(folder) / ("model.onnx" if target.runtime == "onnxruntime" else "model.xml")
        try:
            (_write_int8 if target.precision == "int8" else write_plain)(model, schedule, path)
        except TavtError as error:
            return MemoryPeak(reason=str(error))
        return peak_memory(FileJob(path, target, model.backbone.image_size))


def write_plain(model: AdaptiveViT, schedule: TokenSchedule, path: Path) -> None:
    """Write the file that its suffix names, ``.onnx``, else OpenVINO's, in f32.

    Raises:
        ExportError: The model cannot be written so.
    """
    card = ArtifactCard(model.require_card(), schedule, model.tokens, model.prefix)
    if path.suffix == ".onnx":
        from tavt_kit.exporters.to_onnx import to_onnx

        to_onnx(model, card, path)
    else:
        from tavt_kit.exporters.to_openvino import to_openvino

        to_openvino(model, card, path)


def _write_int8(model: AdaptiveViT, schedule: TokenSchedule, path: Path) -> None:
    """As ``write_plain`` in int8, calibrated on random data: it weighs what a shipped one weighs."""
    from tavt_kit.bench.parts import whole_graph

    runtime = "onnxruntime" if path.suffix == ".onnx" else "openvino"
    graph = whole_graph(model, schedule, TargetDevice(runtime, "cpu", precision="int8"))
    if isinstance(graph, bytes):
        path.write_bytes(graph)
    else:
        import openvino

        openvino.save_model(graph, path, compress_to_fp16=False)


def main() -> None:
    """Do a job in the process that ``peak_memory`` starts: JSON on stdin, one JSON object on stdout.

    A known error is an answer too; any other goes to stderr as it is.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    with suppress(OSError):  # where memory runs out the kernel ends this process, not the one that waits for it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    job: dict[str, Any] = json.loads(sys.stdin.read())
    try:
        answer = _measure(job)
    except TavtError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": "memory ran out"}
    json.dump(answer, answers)
    answers.flush()
    os._exit(0)  # what runtimes do at their end is not measured, and may crash


def _measure(job: Mapping[str, Any]) -> dict[str, Any]:
    """Load, run, and tell the marks."""
    import numpy as np

    target, is_live = TargetDevice.from_record(job["target"]), job["kind"] == "live"
    _load_runtime(target)
    # The peak of importing is forgotten; where the kernel refuses, a smaller model shows less than it is.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    baseline = memory_mark("VmRSS")
    session, (height, width) = _open_live(job, target) if is_live else _open_file(job, target)
    loaded, device_peak = memory_mark("VmRSS"), None
    images = np.random.default_rng(0).standard_normal((target.batch, 3, height, width), dtype=np.float32)
    for _ in range(_RUNS):
        session(images)
    if target.runtime == "torch" and not target.is_cpu:
        import torch

        device_peak = int(torch.cuda.max_memory_allocated(target.index))
    return {"baseline": baseline, "loaded": loaded, "peak": memory_mark("VmHWM"), "device_peak": device_peak}


def _load_runtime(target: TargetDevice) -> None:
    """Import what everybody pays who uses this runtime, whatever the model."""
    from tavt_kit.runtimes import check_available

    check_available(target)
    if target.runtime == "openvino":
        from tavt_kit.runtimes import on_openvino as _openvino  # noqa: F401
    elif target.runtime == "onnxruntime":
        from tavt_kit.runtimes import on_onnxruntime as _onnxruntime  # noqa: F401
    else:
        import torch

        from tavt_kit import checkpoints as _checkpoints  # noqa: F401
        from tavt_kit.runtimes.on_torch import torch_device

        if not target.is_cpu:
            torch.zeros(1, device=torch_device(target))
            torch.cuda.reset_peak_memory_stats(target.index)


def _open_file(job: Mapping[str, Any], target: TargetDevice) -> tuple[Session, tuple[int, int]]:
    from tavt_kit.runtimes import open_file

    session = open_file(Path(job["path"]), target, job["lengths"])
    given = job["image_size"] or (None, None)
    height, width = (own or other for own, other in zip(session.input_shape[2:], given, strict=True))
    if height is None or width is None:
        raise DataError(f"{Path(job['path']).name} takes images of any size; give one by `image_size`")
    return session, (height, width)


def _open_live(job: Mapping[str, Any], target: TargetDevice) -> tuple[Session, tuple[int, int]]:
    from tavt_kit.checkpoints import load_model
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    model, executed = load_model(job["run"]), job["executed"]
    schedule, size = TokenSchedule.parse(job["schedule"], model.layout), model.backbone.image_size
    if executed is not None:
        schedule = TokenSchedule(schedule.counts, tuple(executed))
    return open_module(LeanViT(model, schedule), target, (target.batch, 3, *size)), size


def memory_mark(name: str) -> int:
    """Bytes by ``name`` in /proc/self/status; the high-water mark of getrusage where there is no such file.

    Where there is, it is better: on Linux getrusage begins with the peak of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        try:
            import resource
        except ImportError:
            raise MeasurementError(
                "peak memory is read from Linux and macOS alone, which this is not; leave it out here"
            ) from None
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()

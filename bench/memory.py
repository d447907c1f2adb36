"""Peak memory of an exported file, in a fresh process for each: by numpy and its runtime alone.

A process reports the high-water mark of its resident memory, and what was resident before anything was loaded (the
interpreter, numpy and the runtime): the difference is the model's. Parent and child speak JSON over pipes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import DataError, MeasurementError, TavtError

# What a fresh interpreter runs; -P, so that no file of the working folder stands in for a module.
_CHILD = ("-P", "-m", "tavt_kit.bench.memory")
_RUNS = 3  # Inferences: some runtimes allot more in the second than in the first


@dataclass(frozen=True, slots=True)
class FileJob(Record):
    """An exported file, to be run once in a fresh process; at a size where it takes any, at counts if switchable."""

    path: Path
    target: TargetDevice
    image_size: tuple[int, int] | None = None
    lengths: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class MemoryPeak(Record):
    """Bytes resident in a process that did nothing else.

    Args:
        baseline: Before loading: the interpreter, numpy and the runtime.
        loaded: After loading and compiling.
        peak: The high-water mark of loading and the first inferences.
        reason: Why there are no numbers; empty where there are.
    """

    baseline: int | None = None
    loaded: int | None = None
    peak: int | None = None
    reason: str = ""
    VIEWS: ClassVar[tuple[str, ...]] = ("added",)

    @property
    def added(self) -> int | None:
        """What the model cost: peak minus baseline."""
        return None if self.peak is None or self.baseline is None else self.peak - self.baseline


def peak_memory(job: FileJob, *, seconds: float = 600.0) -> MemoryPeak:
    """Run the job in a process of its own, for so long at most; what goes wrong is in ``reason``, nothing is raised."""
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
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
        return {"error": f"the process ended with exit code {done.returncode}: {last[0]}"}
    return answer


def main() -> None:
    """Do a job in the process that ``peak_memory`` starts: JSON on stdin, one JSON object on stdout.

    A known error is an answer too; any other goes to stderr as it is.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    with suppress(OSError):  # where memory runs out the kernel ends this process, not the one that waits for it
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    try:
        answer = _measure(FileJob.from_record(json.loads(sys.stdin.read())))
    except TavtError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": "memory ran out"}
    json.dump(answer, answers)
    answers.flush()
    os._exit(0)  # what runtimes do at their end is not measured, and may crash


def _measure(job: FileJob) -> dict[str, Any]:
    """Load, run, and tell the marks."""
    import numpy as np

    from tavt_kit.runtimes import check_available, open_file

    check_available(job.target)  # with what everybody pays who uses this runtime, whatever the model
    # The peak of importing is forgotten; where the kernel refuses, a smaller model shows less than it is.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    baseline = memory_mark("VmRSS")
    session = open_file(job.path, job.target, job.lengths)
    given = job.image_size or (None, None)
    height, width = (own or other for own, other in zip(session.input_shape[2:], given, strict=True))
    if height is None or width is None:
        raise DataError(f"{job.path.name} takes images of any size; give one by `image_size`")
    loaded = memory_mark("VmRSS")
    images = np.random.default_rng(0).standard_normal((job.target.batch, 3, height, width), dtype=np.float32)
    for _ in range(_RUNS):
        session(images)
    return {"baseline": baseline, "loaded": loaded, "peak": memory_mark("VmHWM")}


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

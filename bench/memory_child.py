"""The process that ``memory.peak_memory`` starts: a job as JSON on stdin, one JSON object on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import TavtError

if TYPE_CHECKING:
    from tavt_kit.core.schedule import TokenSchedule
    from tavt_kit.models.wrap import AdaptiveViT
    from tavt_kit.runtimes import Session

_RUNS = 3
"""Inferences: some runtimes allot more in the second than in the first."""


def main() -> None:
    """Do the job. A known error is an answer too; any other goes to stderr as it is."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    _die_first()
    job: dict[str, Any] = json.loads(sys.stdin.read())
    try:
        answer = _write(job) if job["kind"] == "write" else _measure(job)
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

    target = TargetDevice.from_record(job["target"])
    _load_runtime(target, torch_too=job["kind"] == "live")
    _reset_high_water()
    baseline = memory_mark("VmRSS")
    session, (height, width) = _live(job, target) if job["kind"] == "live" else _of_file(job, target)
    loaded = memory_mark("VmRSS")
    images = np.random.default_rng(0).standard_normal((target.batch, 3, height, width), dtype=np.float32)
    for _ in range(_RUNS):
        session(images)
    return {"baseline": baseline, "loaded": loaded, "peak": memory_mark("VmHWM"), "device_peak": _device_peak(target)}


def _load_runtime(target: TargetDevice, *, torch_too: bool) -> None:
    """Import what everybody pays who uses this runtime, whatever the model."""
    from tavt_kit.runtimes import check_available

    check_available(target)
    if target.runtime == "openvino":
        from tavt_kit.runtimes import on_openvino as _openvino  # noqa: F401
    elif target.runtime == "onnxruntime":
        from tavt_kit.runtimes import on_onnxruntime as _onnxruntime  # noqa: F401
    if torch_too:
        from tavt_kit import checkpoints as _checkpoints  # noqa: F401
        from tavt_kit.runtimes import on_torch

        if not target.is_cpu:
            import torch

            torch.zeros(1, device=on_torch.torch_device(target))
            torch.cuda.reset_peak_memory_stats(target.index)


def _of_file(job: Mapping[str, Any], target: TargetDevice) -> tuple[Session, tuple[int, int]]:
    from tavt_kit.errors import DataError
    from tavt_kit.runtimes import open_file

    session = open_file(Path(job["path"]), target, job["lengths"])
    given = job["image_size"] or (None, None)
    height, width = (own or other for own, other in zip(session.input_shape[2:], given, strict=True))
    if height is None or width is None:
        raise DataError(f"{Path(job['path']).name} takes images of any size; give one by `image_size`")
    return session, (height, width)


def _live(job: Mapping[str, Any], target: TargetDevice) -> tuple[Session, tuple[int, int]]:
    from tavt_kit.models.wrap import LeanViT
    from tavt_kit.runtimes import open_module

    model, schedule, size = _model(job)
    return open_module(LeanViT(model, schedule), target, (target.batch, 3, *size)), size


def _write(job: Mapping[str, Any]) -> dict[str, Any]:
    """Write a live model as its target's file; nothing is measured."""
    from tavt_kit.bench.plain_file import write_plain

    model, schedule, size = _model(job)
    write_plain(model, schedule, Path(job["path"]))
    return {"image_size": list(size)}


def _model(job: Mapping[str, Any]) -> tuple[AdaptiveViT, TokenSchedule, tuple[int, int]]:
    from tavt_kit.checkpoints import open_model
    from tavt_kit.core.schedule import TokenSchedule

    flags = {name: job[name] for name in ("weights", "image_size", "seed", "score", "pool", "reduction")}
    model = open_model(job["thing"], **flags).eval()
    schedule = TokenSchedule.parse(job["schedule"], model.layout)
    if job["executed"] is not None:
        schedule = TokenSchedule(schedule.counts, tuple(job["executed"]))
    return model, schedule, model.backbone.image_size


def _device_peak(target: TargetDevice) -> int | None:
    if target.runtime != "torch" or target.is_cpu:
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(target.index))


def memory_mark(name: str) -> int:
    """Bytes by ``name`` in /proc/self/status; the high-water mark of getrusage where there is no such file.

    Where there is, it is better: on Linux getrusage begins with the peak of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _reset_high_water() -> None:
    """Forget the peak of importing; where the kernel refuses, a model smaller than that peak shows less than it is."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _die_first() -> None:
    """Where memory runs out the kernel ends this process, not the one that waits for it."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return


if __name__ == "__main__":
    main()

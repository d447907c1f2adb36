"""Peak memory of one model under its schedules, each in a fresh process: what ``bench `memory``` says of them.

    with closing(ScheduleMemory(model, target)) as peak:
        peak(schedule, 3)  # bytes, of three processes

For onnxruntime and OpenVINO a schedule is written as its file here (in int8 calibrated on random data, which weighs the
same), and the fresh process opens nothing but that; for torch the model is written once, and every fresh process opens
it under the schedule.
"""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path

from tavt_kit.bench.memory import FILE_OF, FileJob, LiveJob, MemoryPeak, peak_memory
from tavt_kit.bench.plain_file import write_int8, write_plain
from tavt_kit.checkpoints import save_model
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule, counts_text
from tavt_kit.errors import MeasurementError, TargetError
from tavt_kit.models.wrap import AdaptiveViT


def refuse_untold(target: TargetDevice) -> None:
    """Raise TargetError for a target that cannot tell how much memory a schedule takes."""
    if not target.is_cpu and target.runtime != "torch":
        raise TargetError(
            f"the memory of an accelerator is told by torch's own allocator alone, so {target} cannot tell it; choose "
            "a CPU target or torch:cuda, or leave memory out"
        )


class ScheduleMemory:
    """Measures schedules of a model; to be closed, because it keeps a temporary folder.

    Args:
        model: Wrapped, with its card.
        target: Where to run.

    Raises:
        TargetError: The target cannot tell.
    """

    def __init__(self, model: AdaptiveViT, target: TargetDevice) -> None:
        refuse_untold(target)
        self._model, self._target = model, target
        self._folder = tempfile.TemporaryDirectory(prefix="fgvc-kit-memory-")

    def __call__(self, schedule: TokenSchedule, processes: int = 1) -> tuple[int, ...]:
        """Bytes: the high-water mark of each process, or of torch's allocator on a CUDA device.

        Args:
            schedule: Of the model.
            processes: How many fresh ones: memory allocators do not take the same twice.

        Raises:
            MeasurementError: A process failed or died.
            ExportError: The schedule cannot be written as the target's file.
        """
        measured = self._of_run if self._target.runtime == "torch" else self._of_file
        return tuple(self._counted(schedule, peak) for peak in measured(schedule, processes))

    def _counted(self, schedule: TokenSchedule, peak: MemoryPeak) -> int:
        if peak.counted is None:
            raise MeasurementError(
                f"the peak memory of {schedule} on {self._target} could not be measured: {peak.reason}; leave memory "
                "out of the search, or choose another target"
            )
        return peak.counted

    def _of_run(self, schedule: TokenSchedule, processes: int) -> list[MemoryPeak]:
        job = LiveJob(str(self._run), self._target, counts_text(schedule.counts), executed=schedule.executed)
        return [peak_memory(job) for _ in range(processes)]

    def _of_file(self, schedule: TokenSchedule, processes: int) -> list[MemoryPeak]:
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            path = Path(folder) / FILE_OF[self._target.runtime]
            if self._target.precision == "int8":
                write_int8(self._model, schedule, path, self._target)
            else:
                write_plain(self._model, schedule, path)
            job = FileJob(path, self._target, self._model.backbone.image_size)
            return [peak_memory(job) for _ in range(processes)]

    @cached_property
    def _run(self) -> Path:
        """The model's own folder, written when it is first asked for."""
        folder = Path(self._folder.name) / "run"
        save_model(folder, self._model, self._model.require_card())
        return folder

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

"""Accuracy of schedules by a session whose token counts are an input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import normalise
from tavt_kit.errors import ScheduleError
from tavt_kit.evaluation.shared_evaluation import SharedEvaluator
from tavt_kit.runtimes import FileSession

__all__ = ["SwitchableEvaluator"]


@dataclass(slots=True)
class SwitchableEvaluator(SharedEvaluator):
    """A ``SharedEvaluator`` whose schedules run one after the other on each batch; nothing is shared but the pictures.

    Args:
        session: Of a switchable model; ``precision`` is what it runs in.
        executed: The layers that its graph runs; ``None`` for all.
    """

    session: FileSession = field(kw_only=True)
    executed: tuple[int, ...] | None = field(default=None, kw_only=True)

    def _batch_of(
        self, schedules: Sequence[TokenSchedule], begin: int, end: int
    ) -> Iterator[tuple[TokenSchedule, NDArray[np.float32]]]:
        images = np.ascontiguousarray(normalise(self.pixels[begin:end], self.preprocessing), dtype=np.float32)
        for schedule in schedules:
            if schedule.executed != self.executed:
                raise ScheduleError(f"which layers run is frozen into a converted model, got {schedule}")
            yield schedule, self.session.at(schedule.counts)(images)

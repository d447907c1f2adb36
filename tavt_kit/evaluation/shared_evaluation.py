"""Accuracy of many schedules at once: one pass over the pictures, what the schedules have in common computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.answer import Answer
from tavt_kit.evaluation.evaluator import LeanEvaluator, memory_for
from tavt_kit.models.shared_passes import shared_logits

__all__ = ["SharedEvaluator"]

_Logits: TypeAlias = NDArray[np.float32]


@dataclass(slots=True)
class SharedEvaluator(LeanEvaluator):
    """A ``LeanEvaluator`` that answers schedules together, on all pictures or on some.

    Predictions are those of the schedule alone; see ``shared_logits``.

    Args:
        tokens_at_once: In a batch, before anything is dropped.
    """

    tokens_at_once: int = 6000

    def answers(self, schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, Answer]]:
        """All of them, after one pass over all pictures; each has an equal share of its time."""
        return self.look(schedules, 0, len(self.labels))

    def answer(self, schedule: TokenSchedule) -> Answer:
        ((_, answer),) = self.answers([schedule])
        return answer

    def predicted(self, schedule: TokenSchedule) -> NDArray[np.int64]:
        if schedule not in self._predicted:
            failure = self.answer(schedule).failure
            if failure is not None:
                raise MeasurementError(failure)
        return self._predicted[schedule]

    def look(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> Iterator[tuple[TokenSchedule, Answer]]:
        """As ``answers``, on the pictures from ``start`` to ``stop``; of a part of them only top-1 is told."""
        begin = time.monotonic()
        found = self._found(schedules, start, stop)
        share = (time.monotonic() - begin) / max(1, len(schedules))
        for schedule in schedules:
            logits = found[schedule]
            if isinstance(logits, str):
                yield schedule, Answer(None, share, logits)
            elif not np.isfinite(logits).all():
                yield schedule, Answer(None, share, f"the logits under the schedule {schedule} are not finite")
            else:
                yield schedule, self._told(schedule, logits, start, share)

    def _told(self, schedule: TokenSchedule, logits: _Logits, start: int, seconds: float) -> Answer:
        predicted: NDArray[np.int64] = logits.argmax(axis=1)
        right = predicted == self.labels[start : start + len(logits)]
        others: tuple[Accuracy, ...] = ()
        if len(logits) == len(self.labels):
            self._predicted[schedule] = predicted
            others = self._others[schedule] = self._scored(torch.from_numpy(logits))
        accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=self.split)
        return Answer(accuracy, seconds, right=right, others=others)

    def _found(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, _Logits | str]:
        """Logits, or why there are none: where the memory runs out for several, each is tried alone."""
        try:
            return dict(self._together(schedules, start, stop))
        except MeasurementError as error:
            if len(schedules) == 1:
                return {schedules[0]: str(error)}
        found: dict[TokenSchedule, _Logits | str] = {}
        for schedule in schedules:
            found |= self._found([schedule], start, stop)
        return found

    def _together(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, _Logits]:
        """Logits (n, classes) of the pictures from ``start`` to ``stop``.

        Raises:
            MeasurementError: The memory ran out.
        """
        model = self.model
        parts: dict[TokenSchedule, list[_Logits]] = {schedule: [] for schedule in schedules}
        size = max(1, self.tokens_at_once // model.tokens)
        training = model.training
        model.eval()
        try:
            with memory_for(schedules), self._passing():
                for begin in range(start, stop, size):
                    for schedule, logits in self._batch_of(list(parts), begin, min(begin + size, stop)):
                        parts[schedule].append(logits)
        finally:
            model.train(training)
        return {schedule: np.concatenate(found) for schedule, found in parts.items()}

    def _batch_of(
        self, schedules: Sequence[TokenSchedule], begin: int, end: int
    ) -> Iterator[tuple[TokenSchedule, _Logits]]:
        for schedule, logits in shared_logits(self.model, self._images(begin, end), schedules):
            yield schedule, logits.float().cpu().numpy()

"""Accuracy of many schedules at once: one pass over the pictures, what the schedules have in common computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.accuracy import Accuracy
from tavt_kit.answer import Answer
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation import LeanEvaluator, memory_for
from tavt_kit.preprocess import normalise
from tavt_kit.schedule import TokenSchedule
from tavt_kit.shared_passes import shared_logits

__all__ = ["SharedEvaluator"]

_Labels: TypeAlias = NDArray[np.int64]


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
        for schedule, answer in self.look(schedules, 0, len(self.labels)):
            if answer.right is not None:
                self._right[schedule] = answer.right
            yield schedule, answer

    def right(self, schedule: TokenSchedule) -> NDArray[np.bool_]:
        if schedule not in self._right:
            for _, answer in self.answers([schedule]):
                if answer.failure is not None:
                    raise MeasurementError(answer.failure)
        return self._right[schedule]

    def look(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> Iterator[tuple[TokenSchedule, Answer]]:
        """As ``answers``, on the pictures from ``start`` to ``stop``."""
        begin = time.monotonic()
        found = self._found(schedules, start, stop)
        share = (time.monotonic() - begin) / max(1, len(schedules))
        for schedule in schedules:
            labels = found[schedule]
            if isinstance(labels, str):
                yield schedule, Answer(None, share, labels)
            elif (labels < 0).any():
                yield schedule, Answer(None, share, f"the logits under the schedule {schedule} are not finite")
            else:
                right = labels == self.labels[start:stop]
                accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=self.split)
                yield schedule, Answer(accuracy, share, right=right)

    def _found(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, _Labels | str]:
        """Predicted classes, or why there are none: where the memory runs out for several, each is tried alone."""
        try:
            return dict(self._together(schedules, start, stop))
        except MeasurementError as error:
            if len(schedules) == 1:
                return {schedules[0]: str(error)}
        found: dict[TokenSchedule, _Labels | str] = {}
        for schedule in schedules:
            found |= self._found([schedule], start, stop)
        return found

    def _together(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, _Labels]:
        """Predicted classes of pictures ``start`` to ``stop``; -1 where a logit is not finite.

        Raises:
            MeasurementError: The memory ran out.
        """
        model = self.model
        found = {schedule: np.empty(stop - start, dtype=np.int64) for schedule in schedules}
        size = max(1, self.tokens_at_once // model.tokens)
        training = model.training
        model.eval()
        try:
            with memory_for(schedules), torch.inference_mode():
                for begin in range(start, stop, size):
                    end = min(begin + size, stop)
                    for schedule, labels in self._batch_of(schedules, begin, end):
                        found[schedule][begin - start : end - start] = labels
        finally:
            model.train(training)
        return found

    def _batch_of(
        self, schedules: Sequence[TokenSchedule], begin: int, end: int
    ) -> Iterator[tuple[TokenSchedule, _Labels]]:
        device = next(self.model.parameters()).device
        images = torch.from_numpy(normalise(self.pixels[begin:end], self.preprocessing)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            for schedule, logits in shared_logits(self.model, images, schedules):
                finite = torch.isfinite(logits).all(dim=1)
                yield schedule, torch.where(finite, logits.argmax(dim=1), -1).cpu().numpy()

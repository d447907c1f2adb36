"""Accuracy of many schedules at once: one pass over the pictures, what the schedules have in common computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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

__all__ = ["Looked", "SharedEvaluator"]

Looked = Mapping[TokenSchedule, NDArray[np.bool_] | str]
"""Of each schedule, which of the first pictures are right, or why that could not be had."""


@dataclass(slots=True)
class SharedEvaluator(LeanEvaluator):
    """A ``LeanEvaluator`` that answers schedules together, and looks at no more pictures than it is asked to.

    Args:
        tokens_at_once: In a batch, before anything is dropped.

    Predictions are those of the schedule alone, but for ties: logits agree to 1e-5 of the largest one.
    """

    tokens_at_once: int = 6000
    _looked: dict[TokenSchedule, NDArray[np.bool_]] = field(default_factory=dict, init=False)

    def answers(self, schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, Answer]]:
        """All of them, after one pass; each has an equal share of its time.

        A pass in common keeps predictions only: where other metrics are wanted, each has a pass of its own.
        """
        if self.scoring.names:
            yield from LeanEvaluator.answers(self, schedules)
            return
        begin = time.monotonic()
        found = self.look(schedules, len(self.labels))
        share = (time.monotonic() - begin) / max(1, len(schedules))
        for schedule in schedules:
            right = found[schedule]
            if isinstance(right, str):
                yield schedule, Answer(None, share, right)
            else:
                accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=self.split)
                yield schedule, Answer(accuracy, share, right=right)

    def look(self, schedules: Sequence[TokenSchedule], first: int) -> Looked:
        """Which of the ``first`` pictures are right; those that were looked at before are not run again."""
        failed: dict[TokenSchedule, str] = {}
        together: dict[int, list[TokenSchedule]] = {}
        for schedule in schedules:
            seen = len(self._seen(schedule))
            if seen < first:
                together.setdefault(seen, []).append(schedule)
        for start, group in together.items():
            failed |= self._extend(group, start, first)
        return {schedule: failed.get(schedule) or self._seen(schedule)[:first] for schedule in schedules}

    def _seen(self, schedule: TokenSchedule) -> NDArray[np.bool_]:
        nothing = np.zeros(0, dtype=np.bool_)
        return self._right.get(schedule, self._looked.get(schedule, nothing))

    def _extend(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, str]:
        """Look at the pictures from ``start`` on; what fails, and why."""
        try:
            found = self._together(schedules, start, stop)
        except MeasurementError as error:
            if len(schedules) == 1:
                return {schedules[0]: str(error)}
            failed: dict[TokenSchedule, str] = {}
            for schedule in schedules:  # the memory ran out for some of them; alone, the others still pass
                failed |= self._extend([schedule], start, stop)
            return failed
        failed = {}
        for schedule, labels in found.items():
            if (labels < 0).any():
                failed[schedule] = f"the logits under the schedule {schedule} are not finite"
                continue
            right = np.concatenate([self._seen(schedule), labels == self.labels[start:stop]])
            kept = self._right if len(right) == len(self.labels) else self._looked
            kept[schedule] = right
        return failed

    def _together(
        self, schedules: Sequence[TokenSchedule], start: int, stop: int
    ) -> dict[TokenSchedule, NDArray[np.int64]]:
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
    ) -> Iterator[tuple[TokenSchedule, NDArray[np.int64]]]:
        device = next(self.model.parameters()).device
        images = torch.from_numpy(normalise(self.pixels[begin:end], self.preprocessing)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            for schedule, logits in shared_logits(self.model, images, schedules):
                finite = torch.isfinite(logits).all(dim=1)
                yield schedule, torch.where(finite, logits.argmax(dim=1), -1).cpu().numpy()

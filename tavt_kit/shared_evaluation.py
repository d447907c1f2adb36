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
    _looked: dict[TokenSchedule, NDArray[np.float32]] = field(default_factory=dict, init=False)

    def answers(self, schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, Answer]]:
        """All of them, after one pass; each has an equal share of its time."""
        begin = time.monotonic()
        found = self.look(schedules, len(self.labels))
        share = (time.monotonic() - begin) / max(1, len(schedules))
        for schedule in schedules:
            right = found[schedule]
            if isinstance(right, str):
                yield schedule, Answer(None, share, right)
            else:
                accuracy = Accuracy.of_counts(int(right.sum()), len(right), split=self.split)
                yield schedule, Answer(accuracy, share, right=right, others=self._others[schedule])

    def look(self, schedules: Sequence[TokenSchedule], first: int) -> Looked:
        """Which of the ``first`` pictures are right; those that were looked at before are not run again."""
        failed: dict[TokenSchedule, str] = {}
        together: dict[int, list[TokenSchedule]] = {}
        for schedule in schedules:
            seen = self._seen(schedule)
            if seen < first:
                together.setdefault(seen, []).append(schedule)
        for start, group in together.items():
            failed |= self._extend(group, start, first)
        return {schedule: failed.get(schedule) or self._first(schedule, first) for schedule in schedules}

    def _seen(self, schedule: TokenSchedule) -> int:
        """At how many pictures the schedule was looked."""
        if schedule in self._predicted:
            return len(self.labels)
        return len(self._looked[schedule]) if schedule in self._looked else 0

    def _first(self, schedule: TokenSchedule, number: int) -> NDArray[np.bool_]:
        """Which of so many pictures, that were looked at, are right."""
        known = self._predicted.get(schedule)
        predicted: NDArray[np.int64] = self._looked[schedule].argmax(axis=1) if known is None else known
        return predicted[:number] == self.labels[:number]

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
        for schedule, logits in found.items():
            if not np.isfinite(logits).all():
                failed[schedule] = f"the logits under the schedule {schedule} are not finite"
                continue
            before = self._looked.pop(schedule, logits[:0])
            self._keep(schedule, np.concatenate([before, logits]))
        return failed

    def _keep(self, schedule: TokenSchedule, logits: NDArray[np.float32]) -> None:
        """Of a schedule that was looked at on all pictures, what is asked of it; else the logits so far."""
        if len(logits) < len(self.labels):
            self._looked[schedule] = logits
            return
        self._predicted[schedule] = logits.argmax(axis=1)
        self._others[schedule] = self._scored(torch.from_numpy(logits))

    def _together(
        self, schedules: Sequence[TokenSchedule], start: int, stop: int
    ) -> dict[TokenSchedule, NDArray[np.float32]]:
        """Logits (n, classes) of pictures ``start`` to ``stop``.

        Raises:
            MeasurementError: The memory ran out.
        """
        model = self.model
        found: dict[TokenSchedule, list[NDArray[np.float32]]] = {schedule: [] for schedule in schedules}
        size = max(1, self.tokens_at_once // model.tokens)
        training = model.training
        model.eval()
        try:
            with memory_for(schedules), torch.inference_mode():
                for begin in range(start, stop, size):
                    for schedule, logits in self._batch_of(schedules, begin, min(begin + size, stop)):
                        found[schedule].append(logits)
        finally:
            model.train(training)
        return {schedule: np.concatenate(parts) for schedule, parts in found.items()}

    def _batch_of(
        self, schedules: Sequence[TokenSchedule], begin: int, end: int
    ) -> Iterator[tuple[TokenSchedule, NDArray[np.float32]]]:
        device = next(self.model.parameters()).device
        images = torch.from_numpy(normalise(self.pixels[begin:end], self.preprocessing)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            for schedule, logits in shared_logits(self.model, images, schedules):
                yield schedule, logits.float().cpu().numpy()

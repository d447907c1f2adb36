"""Accuracy of schedules on pictures, by the lean path: what the search asks hundreds of times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import DataError, MeasurementError
from tavt_kit.evaluation.answer import Answer, paired
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes.out_of_memory import is_out_of_memory

__all__ = ["LeanEvaluator", "Pixels", "memory_for"]

_TOKENS_AT_ONCE = 6000
"""Tokens in a batch: enough to fill a CPU, few enough for its caches; measured flat from half to four times that."""


class Pixels(Protocol):
    """Bytes of pictures: in memory, or mapped or decoded when they are asked for."""

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        """(n, 3, H, W) of a slice, where all have one size; (3, h, w) of one picture."""
        ...


@dataclass(slots=True)
class LeanEvaluator:
    """Counts the pictures that a model has right under a schedule.

    Args:
        model: Wrapped, on its device; its own schedule is put back after each evaluation.
        pixels: Slices are (n, 3, H, W) bytes, cropped as the preprocessing says.
        labels: (n,)
        preprocessing: The model's.
        split: Of the pictures.
        precision: ``f32``, or ``bf16`` for autocast.
        scoring: Metrics that are wanted beside top-1, of the same labels; ``None`` for none.

    Raises:
        DataError: No pictures.
    """

    model: AdaptiveViT
    pixels: Pixels
    labels: NDArray[np.int64]
    preprocessing: Preprocessing
    split: str = "val"
    precision: str = "f32"
    scoring: Scoring | None = None
    _predicted: dict[TokenSchedule, NDArray[np.int64]] = field(default_factory=dict, init=False)
    _others: dict[TokenSchedule, tuple[Accuracy, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise DataError(f"an accuracy needs pictures, but the split {self.split} has none")

    def __call__(self, schedule: TokenSchedule) -> Accuracy:
        """Top-1 under ``schedule``.

        Raises:
            MeasurementError: A logit is not finite, or the memory ran out.
        """
        right = self.right(schedule)
        return Accuracy.of_counts(int(right.sum()), len(right), split=self.split)

    def answers(self, schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, Answer]]:
        """One after the other; what fails for one schedule is its answer."""
        for schedule in schedules:
            yield schedule, self.answer(schedule)

    def answer(self, schedule: TokenSchedule) -> Answer:
        """Top-1 with which pictures are right, and what ``scoring`` wants, or why it could not be had."""
        begin = time.monotonic()
        try:
            accuracy = self(schedule)
        except MeasurementError as error:
            return Answer(None, time.monotonic() - begin, str(error))
        return Answer(accuracy, time.monotonic() - begin, right=self.right(schedule), others=self._others[schedule])

    def against(self, source: TokenSchedule, candidate: TokenSchedule) -> PairedDifference:
        """Candidate minus source on the same pictures."""
        return paired(self.right(source), self.right(candidate))

    def right(self, schedule: TokenSchedule) -> NDArray[np.bool_]:
        """(n,) which pictures are right; kept, so that comparing costs no second pass."""
        right: NDArray[np.bool_] = self.predicted(schedule) == self.labels
        return right

    def predicted(self, schedule: TokenSchedule) -> NDArray[np.int64]:
        """(n,) the likeliest class of each picture; kept."""
        if schedule not in self._predicted:
            logits = self.logits(schedule)
            if not bool(torch.isfinite(logits).all()):
                raise MeasurementError(f"the logits under the schedule {schedule} are not finite")
            self._predicted[schedule] = logits.argmax(1).numpy()
            self._others[schedule] = self._scored(logits)
        return self._predicted[schedule]

    def _scored(self, logits: Tensor) -> tuple[Accuracy, ...]:
        if self.scoring is None:
            return ()
        return self.scoring.of(logits.numpy(), lambda: self.predicted(self.model.dense_schedule))

    def logits(self, schedule: TokenSchedule) -> Tensor:
        """(n, classes) float32 on the CPU, by the lean path."""
        size = max(1, min(len(self.labels), _TOKENS_AT_ONCE // self.model.tokens))
        with _under(self.model, schedule), memory_for([schedule]), self._passing():
            return torch.cat([self._batch(start, size) for start in range(0, len(self.labels), size)])

    def _batch(self, start: int, size: int) -> Tensor:
        return self.model.forward_lean(self._images(start, start + size)).float().cpu()

    def _images(self, start: int, stop: int) -> Tensor:
        """(n, 3, H, W) as the model takes them, on its device."""
        device = next(self.model.parameters()).device
        return torch.from_numpy(normalise(self.pixels[start:stop], self.preprocessing)).to(device)

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """Without gradients, in the precision: one autocast for all batches of a pass.

        By ``no_grad``, because under ``inference_mode`` autocast converts every weight anew wherever it is used.
        """
        device = next(self.model.parameters()).device
        bf16 = self.precision == "bf16"
        # Asked for, because a converter that ran before may have left the cache of conversions off.
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=True):
            yield


@contextmanager
def _under(model: AdaptiveViT, schedule: TokenSchedule) -> Iterator[None]:
    before, training = model.schedule, model.training
    model.schedule = schedule
    model.eval()
    try:
        yield
    finally:
        model.schedule = before
        model.train(training)


@contextmanager
def memory_for(schedules: Sequence[TokenSchedule]) -> Iterator[None]:
    """Turns memory that runs out, whichever way a device says so, into a MeasurementError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0] if str(error) else "MemoryError"
        others = f" and {len(schedules) - 1} more" if len(schedules) > 1 else ""
        raise MeasurementError(f"the memory ran out under the schedule {schedules[0]}{others}: {said}") from None

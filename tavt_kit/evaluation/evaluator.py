"""Accuracy of schedules on images, what the search asks hundreds of times: one pass over the images for many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing, normalise
from tavt_kit.errors import DataError, MeasurementError, ScheduleError
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.models.prefix_sharing import shared_logits
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import FileSession
from tavt_kit.runtimes.out_of_memory import free_memory, is_out_of_memory, memory_for

_Logits: TypeAlias = NDArray[np.float32]
Strategy = Callable[[_Logits, Sequence[TokenSchedule]], Iterator[tuple[TokenSchedule, _Logits]]]
"""Prepared images (B, 3, H, W) and schedules -> the logits (B, classes) under each schedule."""


_ON_CPU, _ON_GPU = 6000, 100_000
"""Tokens in a batch: enough to fill a CPU, few enough for its caches (measured flat from half to four times that);
enough for matrix products that fill a large GPU."""


class Pixels(Protocol):
    """Bytes of images: in memory, or mapped or decoded when they are asked for."""

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        """(n, 3, H, W) of a slice, where all have one size; (3, h, w) of one image."""
        ...


@dataclass(slots=True)
class Evaluator:
    """Counts the images that a model has right under schedules, on all images or on some.

    Args:
        pixels: Images; slices are (n, 3, H, W) bytes, cropped as the preprocessing says.
        precision: ``f32``, or ``bf16`` for autocast; with a strategy, what that runs in.
        scoring: Metrics that are wanted beside top-1, of the same labels.
        reference: Gives the logits that metrics of the dense model compare with; ``None`` for this model's own.
        strategy: Gives the logits of a batch; ``None`` takes the model itself by the lean path, what schedules have in
            common computed once. Predictions are those of the schedule alone; see ``shared_logits``.
        tokens_at_once: Tokens in a batch, before anything is dropped; ``None`` for a number that suits the processor.
            Halved where the memory runs out.

    Raises:
        DataError: No images.
    """

    model: AdaptiveViT
    pixels: Pixels
    labels: NDArray[np.int64]
    preprocessing: Preprocessing
    split: str = "val"
    precision: str = "f32"
    scoring: Scoring | None = None
    reference: Callable[[], _Logits] | None = None
    strategy: Strategy | None = None
    tokens_at_once: int | None = None
    _predicted: dict[TokenSchedule, NDArray[np.int64]] = field(default_factory=dict, init=False)
    _dense: _Logits | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise DataError(f"an accuracy needs images, but the split {self.split} has none")

    def __call__(self, schedule: TokenSchedule) -> Accuracy:
        """Top-1 under ``schedule``. Raises MeasurementError: a logit is not finite, or the memory ran out."""
        correct = self.correct(schedule)
        return Accuracy.of_counts(int(correct.sum()), len(correct), split=self.split)

    def evaluate(self, schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        """All of them, after one pass over all images; what fails for one schedule is its result."""
        return self.look(schedules, 0, len(self.labels))

    def look(
        self, schedules: Sequence[TokenSchedule], start: int, stop: int
    ) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        """As ``evaluate``, on the images from ``start`` to ``stop``; of a part of them only top-1 is told.

        Each schedule has an equal share of the time.
        """
        begin = time.monotonic()
        answers = self._answers(schedules, start, stop)
        share = (time.monotonic() - begin) / max(1, len(schedules))
        for schedule in schedules:
            logits = answers[schedule]
            if isinstance(logits, str):
                yield schedule, EvaluationResult(None, share, logits)
                continue
            if not np.isfinite(logits).all():
                yield (
                    schedule,
                    EvaluationResult(None, share, f"the logits under the schedule {schedule} are not finite"),
                )
                continue
            predicted: NDArray[np.int64] = logits.argmax(axis=1)
            correct: NDArray[np.bool_] = predicted == self.labels[start : start + len(logits)]
            metrics: tuple[Accuracy, ...] = ()
            if len(logits) == len(self.labels):
                self._predicted[schedule] = predicted
                if schedule == self.model.dense_schedule:
                    self._dense = logits
                if self.scoring is not None:
                    metrics = self.scoring.of(logits, self.reference or self.dense_logits)
            accuracy = Accuracy.of_counts(int(correct.sum()), len(correct), split=self.split)
            yield schedule, EvaluationResult(accuracy, share, correct=correct, metrics=metrics)

    def correct(self, schedule: TokenSchedule) -> NDArray[np.bool_]:
        """(n,) which images are right; kept, so that comparing costs no second pass."""
        correct: NDArray[np.bool_] = self.predicted(schedule) == self.labels
        return correct

    def predicted(self, schedule: TokenSchedule) -> NDArray[np.int64]:
        """(n,) the likeliest class of each image; kept."""
        if schedule not in self._predicted:
            ((_, result),) = self.evaluate([schedule])
            if result.failure is not None:
                raise MeasurementError(result.failure)
        return self._predicted[schedule]

    def dense_logits(self) -> _Logits:
        """(n, classes) with nothing dropped; kept."""
        if self._dense is None:
            self._dense = self.logits(self.model.dense_schedule).numpy()
        return self._dense

    def logits(self, schedule: TokenSchedule) -> Tensor:
        """(n, classes) float32 on the CPU; not kept. Raises MeasurementError: the memory ran out."""
        return torch.from_numpy(self._together([schedule], 0, len(self.labels))[schedule])

    def _answers(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, _Logits | str]:
        """Logits, or why there are none: where the memory runs out for several, each is tried alone."""
        try:
            return dict(self._together(schedules, start, stop))
        except MeasurementError as error:
            if len(schedules) == 1:
                return {schedules[0]: str(error)}
        return dict(item for schedule in schedules for item in self._answers([schedule], start, stop).items())

    def _together(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, _Logits]:
        """Logits (n, classes) of the images from ``start`` to ``stop``; MeasurementError where the memory ran out."""
        if not schedules:
            return {}
        parts: dict[TokenSchedule, list[Tensor]] = {schedule: [] for schedule in schedules}
        for schedule in parts:
            schedule.check(self.model.layout)
        others = f" and {len(schedules) - 1} more" if len(schedules) > 1 else ""
        with memory_for(f"under the schedule {schedules[0]}{others}"), self._passing():
            while start < stop:
                answers = self._batch(list(parts), start, stop)
                for schedule, logits in answers.items():
                    parts[schedule].append(logits)
                start += len(logits)
            device = next(self.model.parameters()).device
            if device.type == "cuda":  # once for all batches: it computes one while the next is read
                torch.cuda.synchronize(device)
        return {schedule: torch.cat(logits).numpy() for schedule, logits in parts.items()}

    def _batch(self, schedules: Sequence[TokenSchedule], start: int, stop: int) -> dict[TokenSchedule, Tensor]:
        """Logits of the images from ``start``, as many as fit; what does not fit once is not tried again.

        Those of a GPU are on the CPU when it is done with them.
        """
        while True:
            weights = next(self.model.parameters())
            tokens = self.tokens_at_once or (_ON_GPU if weights.device.type == "cuda" else _ON_CPU)
            size = max(1, tokens // self.model.tokens)
            pixels = self.pixels[start : min(start + size, stop)]
            try:
                if self.strategy is not None:
                    answers = self.strategy(normalise(pixels, self.preprocessing), schedules)
                    return {schedule: torch.from_numpy(logits) for schedule, logits in answers}
                images = normalised(pixels, self.preprocessing, weights.device).to(weights.dtype)
                shared = shared_logits(self.model, images, schedules)
                return {schedule: logits.float().to("cpu", non_blocking=True) for schedule, logits in shared}
            except (RuntimeError, MemoryError) as error:
                if len(pixels) == 1 or not is_out_of_memory(error):
                    raise
            self.tokens_at_once = self.model.tokens * (len(pixels) // 2)
            free_memory()

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """In eval mode without gradients, in the precision: one autocast for all batches of a pass.

        By ``no_grad``, because under ``inference_mode`` autocast converts every weight anew wherever it is used.
        """
        device, training = next(self.model.parameters()).device, self.model.training
        bf16 = self.precision == "bf16"
        self.model.eval()
        try:
            # Asked for, because a converter that ran before may have left the cache of conversions off.
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=True):
                yield
        finally:
            self.model.train(training)


def normalised(pixels: NDArray[np.uint8], prepared: Preprocessing, device: torch.device) -> Tensor:
    """``normalise`` on the device, to the bit: bytes are the quicker way there, and nobody waits for a GPU."""
    numbers = torch.tensor([(255.0,) * 3, prepared.mean, prepared.std]).reshape(3, 3, 1, 1)
    values, numbers = (sent(array, device) for array in (torch.from_numpy(np.ascontiguousarray(pixels)), numbers))
    largest, mean, std = numbers
    return values.float().div_(largest).sub_(mean).div_(std)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on the device; to a GPU from memory that it reads by itself, while it computes."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


@dataclass(frozen=True, slots=True)
class SwitchableLogits:
    """The strategy of a converted model, whose graph runs the executed layers: schedules run one after the other."""

    session: FileSession
    executed: tuple[int, ...] | None = None

    def __call__(
        self, images: NDArray[np.float32], schedules: Sequence[TokenSchedule]
    ) -> Iterator[tuple[TokenSchedule, _Logits]]:
        """The logits of a batch under each schedule; ScheduleError where it runs other layers."""
        images = np.ascontiguousarray(images, dtype=np.float32)
        for schedule in schedules:
            if schedule.executed != self.executed:
                raise ScheduleError(f"which layers run is frozen into a converted model, got {schedule}")
            yield schedule, self.session.at(schedule.counts)(images)

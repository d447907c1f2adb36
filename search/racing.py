"""Racing: a schedule that is clearly worse than one that costs no more is looked at no further.

All are judged on the same images in the same order, by the paired difference to the incumbent: the most accurate of
those that cost no more and were looked at to the end. Candidates meet it after the first images, after twice as many,
and so on. Incumbents are of earlier generations alone: so a decision rests on stored answers, and a search that was
stopped in the middle of a generation decides as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.configuration import Choice
from tavt_kit.errors import DataError
from tavt_kit.evaluation.result import EvaluationResult

Bits = NDArray[np.bool_]
"""(n,) which images are right."""

Look = Callable[[Sequence[Any], int, int], Iterable[tuple[Any, EvaluationResult]]]
"""(schedules, start, stop) -> their answers on those images, with bits, in any order."""

ESTIMATE = "estimate"
"""The name, among an answer's values, of the accuracy on all images that a candidate stopped early would have."""


def stages(first: int, images: int) -> tuple[int, ...]:
    """How many images a candidate has been seen on when it is judged: doubling, and all in the end.

    Example:
        >>> stages(128, 1100), stages(128, 200)
        ((128, 256, 512, 1100), (200,))
    """
    if first < 1:
        raise DataError(f"a candidate must be looked at on one image or more before it is judged, got {first}")
    ends = []
    while first <= images / 2:  # a judgement shortly before the end saves next to nothing
        ends.append(first)
        first *= 2
    return (*ends, images)


def stratified(labels: Sequence[int], seed: int = 0) -> NDArray[np.int64]:
    """An order in which the first images, however many, hold every class by about its share of all.

    A class's images are drawn in random order and spread evenly over the whole, from a random place on.

    Example:
        >>> labels = [0] * 90 + [1] * 10
        >>> int(np.asarray(labels)[stratified(labels)[:20]].sum())
        2
    """
    rng = np.random.default_rng(seed)
    given = np.asarray(labels, dtype=np.int64)
    positions = np.empty(len(given))
    for label in np.unique(given):
        members = np.flatnonzero(given == label)
        positions[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    return np.argsort(positions, kind="stable")


def is_beaten(candidate: Bits, incumbent: Bits, confidence: float) -> bool:
    """Whether the incumbent will, on all images, be at least as accurate, as surely as ``confidence`` in (0.5, 1).

    Of the candidate the first k of n images are known, a random part of all. With ``behind`` more of them right for the
    incumbent, the final difference is about normal around ``behind * n / k``, with the variance of the flips among the
    images to come and of what the first k say of these; both together shrink to nothing where k reaches n.

    Example:
        >>> incumbent = np.arange(400) % 4 > 0
        >>> worse = incumbent[:100] & (np.arange(100) % 10 > 0)
        >>> is_beaten(worse, incumbent, 0.9), is_beaten(incumbent[:100], incumbent, 0.9)
        (True, False)
    """
    seen, images = len(candidate), len(incumbent)
    gained = int((candidate & ~incumbent[:seen]).sum())
    lost = int((incumbent[:seen] & ~candidate).sum())
    behind = lost - gained
    if behind >= images - seen:
        return True  # were it right on everything to come, and the incumbent on nothing
    # One flip more than was seen: without any, nothing is known of their number.
    spread = math.sqrt((gained + lost + 1) * (1 - seen / images))
    return behind > NormalDist().inv_cdf(confidence) * spread


@dataclass
class Race:
    """An evaluator of generations that stops candidates early; see the module.

    Args:
        first: Images before the first judgement, of ``images`` in all.
        confidence: Probability that a candidate which is stopped is not better, for each judgement.
    """

    look: Look
    cost: Callable[[Any], float]
    images: int
    first: int = 128
    confidence: float = 0.9
    split: str = "val"
    _finished: list[tuple[float, float, Bits]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise DataError(f"candidates are stopped with a confidence between 0.5 and 1, got {self.confidence}")
        self._stages = stages(self.first, self.images)

    def update(self, answered: Sequence[tuple[Choice, EvaluationResult]]) -> None:
        """Take the answers of a generation, from the store or new, as incumbents of those to come."""
        for schedule, answer in answered:
            if answer.correct is not None and len(answer.correct) == self.images:
                self._finished.append((self.cost(schedule), float(answer.correct.mean()), answer.correct))

    def __call__(self, schedules: Sequence[Choice]) -> Iterator[tuple[Choice, EvaluationResult]]:
        """As ``Evaluate``: candidates stopped early first; their accuracies say on how many images."""
        incumbents = dict[Choice, Bits | None]()
        for schedule in schedules:
            # The most accurate of those that cost no more; of equals the first that was finished.
            cost = self.cost(schedule)
            cheaper = (run for run in self._finished if run[0] <= cost)
            incumbents[schedule] = max(cheaper, key=lambda run: run[1], default=(0.0, 0.0, None))[2]
        known: dict[Choice, list[EvaluationResult]] = {schedule: [] for schedule in schedules}
        for start, stop in pairwise((0, *self._stages)):
            for schedule, answer in self.look(list(known), start, stop):
                known[schedule].append(answer)
            for schedule, parts in list(known.items()):
                if (answered := self._judged(parts, incumbents[schedule])) is not None:
                    del known[schedule]
                    yield schedule, answered
            if not known:
                return

    def _judged(self, parts: Sequence[EvaluationResult], incumbent: Bits | None) -> EvaluationResult | None:
        """The answer of a candidate that is looked at no further, or ``None``; ``parts`` are its answers so far."""
        seconds, failure = sum(part.seconds for part in parts), parts[-1].failure
        if failure is not None:
            return EvaluationResult(None, seconds, failure)
        known = [part.correct for part in parts if part.correct is not None]
        if len(known) < len(parts):
            raise RuntimeError("a race needs to know which images were right, but the evaluator does not say")
        bits, values = np.concatenate(known), dict[str, float]()
        if len(bits) < self.images:
            if incumbent is None or not is_beaten(bits, incumbent, self.confidence):
                return None
            # The incumbent's accuracy on all images, less what the candidate is behind it on those that both have seen:
            # the first images may be easier than all, and a candidate must not gain by having been stopped among them.
            behind = float(incumbent[: len(bits)].mean()) - float(bits.mean())
            values = {ESTIMATE: min(max(float(incumbent.mean()) - behind, 0.0), 1.0)}
        accuracy = Accuracy.of_counts(int(bits.sum()), len(bits), split=self.split)
        return EvaluationResult(accuracy, seconds, correct=bits, values=values)

"""How a search is answered: many schedules at once, answers in any order, each stored the moment it comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.configuration import Choice
from tavt_kit.errors import DataError, MeasurementError
from tavt_kit.evaluation.answer import Answer
from tavt_kit.search.store import Store

__all__ = ["Answered", "Evaluate", "in_order", "one_by_one"]

Evaluate = Callable[[Sequence[Any]], Iterable[tuple[Any, Answer]]]
"""Answers different schedules, each exactly once, in any order, as they finish; accuracies on the split ``val``.

What fails for one schedule alone (a logit that is not finite, memory that runs out) is an answer with a failure.
Where a bound is reached, the rest is not asked for any more: a generator is closed.
"""

_log = logging.getLogger(__name__)


class Answered(NamedTuple):
    """A schedule with its answer.

    Args:
        schedule: As asked.
        answer: Stored by now.
        replayed: Whether it was in the store already.
    """

    schedule: Choice
    answer: Answer
    replayed: bool


def one_by_one(evaluate: Callable[[Any], Accuracy]) -> Evaluate:
    """An evaluator of many schedules from a function of one.

    Args:
        evaluate: The accuracy of a schedule on the split ``val``; a MeasurementError or a MemoryError counts as a
            failure of that schedule alone.

    Example:
        >>> from tavt_kit.core.schedule import TokenSchedule
        >>> answers = one_by_one(lambda schedule: Accuracy.of_counts(3, 4, split="val"))
        >>> [(str(schedule), answer.accuracy.value) for schedule, answer in answers([TokenSchedule((5, 4))])]
        [('5,4', 0.75)]
    """

    def answers(schedules: Sequence[Choice]) -> Iterator[tuple[Choice, Answer]]:
        for schedule in schedules:
            begin = time.monotonic()
            try:
                accuracy, failure = evaluate(schedule), None
            except (MeasurementError, MemoryError) as error:
                accuracy, failure = None, str(error) or "the memory ran out"
            yield schedule, Answer(accuracy, time.monotonic() - begin, failure)

    return answers


def in_order(schedules: Sequence[Choice], evaluate: Evaluate, store: Store) -> Generator[Answered]:
    """The answers in the order of the schedules, from the store or evaluated.

    Each answer is stored as it comes, whatever its place, and given out once all before it are there: what follows
    from them does not depend on which finished first. Close the iterator to abandon the rest.

    Raises:
        DataError: An accuracy of another split than ``val``.
        RuntimeError: The evaluator left a schedule out, or answered one that it was not asked.
    """
    known = {schedule: answer for schedule in schedules if (answer := store.get(schedule)) is not None}
    waiting = [schedule for schedule in schedules if schedule not in known]
    arrived = _stored(waiting, evaluate, store)
    answers: dict[Choice, Answer] = {}
    with closing(arrived):
        for schedule in schedules:
            if schedule in known:
                yield Answered(schedule, known[schedule], replayed=True)
                continue
            while schedule not in answers:
                answers.update(next(arrived))
            yield Answered(schedule, answers[schedule], replayed=False)


def _stored(schedules: Sequence[Choice], evaluate: Evaluate, store: Store) -> Generator[dict[Choice, Answer]]:
    """Answers as they come, each in the store before it is given out; nothing runs before the first is asked for."""
    missing = set(schedules)
    coming = iter(evaluate(schedules))
    try:
        for schedule, answer in coming:
            if schedule not in missing:
                raise RuntimeError(f"the evaluator answered {schedule}, which it was not asked, or answered before")
            _check(schedule, answer)
            store.put(schedule, answer)
            missing.discard(schedule)
            yield {schedule: answer}
        raise RuntimeError(f"the evaluator left {len(missing)} of {len(schedules)} schedules unanswered")
    finally:
        if isinstance(coming, Generator):
            coming.close()


def _check(schedule: Choice, answer: Answer) -> None:
    if answer.failure is not None:
        _log.warning("the evaluation of %s failed and is left out: %s", schedule, answer.failure)
    for accuracy in (answer.accuracy, *answer.others):
        if accuracy is not None and accuracy.split != "val":
            raise DataError(f"a search selects on the split 'val' only, but got an accuracy of {accuracy.split!r}")

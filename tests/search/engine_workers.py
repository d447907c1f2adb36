"""Evaluators that worker processes make: the toy, and ones that die, fail or run out of memory on purpose."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import Evaluate, one_by_one
from tests.search.toy import SPACE, evaluate


@dataclass(frozen=True)
class Toy:
    """Makes the toy's evaluator.

    Args:
        folder: Where every evaluation leaves a line, if given.
        dies: How many workers end themselves at the first schedule that is not dense, all together.
        fatal: A schedule that ends every worker.
        seconds: Of each evaluation.
        wrong: ``"starting"`` or ``"answering"``: what is refused, or fails.
    """

    folder: Path | None = None
    dies: int = 0
    fatal: TokenSchedule | None = None
    seconds: float = 0.0
    wrong: str = ""

    def __call__(self) -> Evaluate:
        if self.wrong == "starting":
            raise DataError("the images are gone")
        return one_by_one(self._evaluate)

    def _evaluate(self, schedule: TokenSchedule) -> Accuracy:
        if self.wrong == "answering":
            raise ZeroDivisionError("in the middle")
        if schedule == self.fatal or (schedule != SPACE.dense and self._first_of(self.dies)):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if self.folder is not None:
            with (self.folder / "log").open("a") as log:
                log.write(f"{os.getpid()}\n")
        return evaluate(schedule)

    def _first_of(self, number: int) -> bool:
        """Whether this is among the first so many calls in any process; each leaves a file that only one can make."""
        for index in range(number):
            try:
                (self._place / f"died-{index}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False

    @property
    def _place(self) -> Path:
        assert self.folder is not None
        return self.folder


def nothing_answered(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
    """An evaluator with a bug."""
    return iter(())


def make_nothing_answered() -> Evaluate:
    return nothing_answered

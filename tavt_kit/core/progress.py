"""What a workflow is given: who watches it, and how long it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tavt_kit.errors import ParameterError


class Progress(Protocol):
    """A watcher of one workflow, told of its stages one after the other."""

    def say(self, sentence: str) -> None:
        """A sentence worth keeping: what begins now, or what was found on the way."""
        return

    def show(self, value: object) -> None:
        """A value worth a look while the work goes on: a feasibility table, the state of a search."""
        return

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """A stage of counted units begins: ``what`` it does, how many units it has, how many were done before."""
        return

    def advance(self, units: int = 1, **values: float) -> None:
        """Some units of the stage are done; ``values`` are worth showing (loss, images per second)."""
        return

    def update(self, doing: str, share: float | None = None) -> None:
        """What is done now, and the share of the whole that is done (0 to 1), or None where nobody knows."""
        return


class Silent(Progress):
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """How much of an allowed time, in seconds above 0 or ``None`` for no end, is left; it begins when it is made.

    Example:
        >>> Deadline(60.0, clock=lambda: 5.0).left(keep=0.4)
        36.0
    """

    seconds: float | None = None
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)
    started: float = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise ParameterError(f"`max_time` must be above 0 seconds, got {self.seconds:g}")
        object.__setattr__(self, "started", self.clock())

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self.clock() - self.started

    def left(self, keep: float = 0.0) -> float:
        """Seconds left, never below 0, when the share ``keep`` (0 to 1) of the whole stays for what comes later."""
        return math.inf if self.seconds is None else max(0.0, (1 - keep) * self.seconds - self.spent)

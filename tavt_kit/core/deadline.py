"""The end of an allowed time: made once where a call begins, handed on to all that takes time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tavt_kit.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Deadline:
    """How much of an allowed time is left; it begins when it is made.

    Args:
        seconds: Allowed in all; ``None`` for no end.
        clock: Seconds that only grow.

    Raises:
        ParameterError: The time is not above 0.

    Example:
        >>> Deadline(60.0, clock=lambda: 5.0).left(keep=0.4)
        36.0
        >>> Deadline().left()
        inf
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

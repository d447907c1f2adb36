"""The bound of a distillation: the largest share of tokens that a layer may drop, as it is or growing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tavt_kit.errors import TavtError, TrainingError, UnknownName

__all__ = ["ANNEALS", "Bound"]

ANNEALS = ("linear", "cosine")


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest share of tokens that a layer may drop, over a training run.

    At progress p in [0, 1] (0 at the first update, 1 at the last) it is ``start + (end - start) * f(p)``, with f(p) = p
    (linear) or (1 - cos(pi p)) / 2 (cosine, flat at both ends). Growing only: what was learnt of small networks
    would fade while they are not trained.

    Args:
        end: At the last update, above 0 and below 1.
        start: At the first one; ``None`` is ``end``, a bound that stays.
        shape: ``"linear"`` or ``"cosine"``.

    Raises:
        TrainingError: A share outside (0, 1), or one that falls.
        UnknownName: No such shape.

    Example:
        >>> Bound.parse("0.2:0.6").at(0.5)
        0.4
    """

    end: float
    start: float | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        for share in (self.end, self.end if self.start is None else self.start):
            if not 0.0 < share < 1.0:
                raise TrainingError(
                    f"the bound is the largest share of tokens a layer may drop, above 0 and below 1, got {share}"
                )
        if self.shape not in ANNEALS:
            raise UnknownName(f"a bound is annealed by one of {', '.join(ANNEALS)}, got {self.shape!r}")
        if self.start is not None and self.start > self.end:
            raise TrainingError(
                f"an annealed bound grows, or the smallest networks would be forgotten, got {self.start:g} to "
                f"{self.end:g}; write the smaller one first"
            )

    @classmethod
    def parse(cls, given: str | float) -> Bound:
        """Read ``0.4``, ``0.2:0.6`` (linear) or ``0.2:0.6:cosine``.

        Raises:
            TrainingError: Another form, or a value out of its range.
        """
        first, *rest = str(given).split(":")
        try:
            if not rest:
                return cls(float(first))
            if len(rest) <= 2:
                return cls(float(rest[0]), float(first), *rest[1:])
        except ValueError as error:
            if isinstance(error, TavtError):
                raise
        raise TrainingError(f"a bound is a share such as 0.4, or grows: 0.2:0.6 or 0.2:0.6:cosine, got {given!r}")

    def at(self, progress: float) -> float:
        """The bound at a progress in [0, 1]."""
        if self.start is None:
            return self.end
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress

    def __str__(self) -> str:
        if self.start is None:
            return f"{self.end:g}"
        return f"{self.start:g}:{self.end:g}" + (":cosine" if self.shape == "cosine" else "")

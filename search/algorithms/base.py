"""What every search algorithm is: something that proposes schedules and is told what became of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tavt_kit.core.configuration import Choice

__all__ = ["Algorithm", "Outcome"]


class Outcome(NamedTuple):
    """What became of a proposal.

    Args:
        cost: Any unit, finite.
        metric: NaN where the evaluation failed.
        shortfall: How far a floor is missed; 0 where it is kept.
        more: Values of further objectives, all of them to be minimised; none for a search of two objectives.
    """

    cost: float
    metric: float
    shortfall: float = 0.0
    more: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return math.isnan(self.metric) or any(math.isnan(value) for value in self.more)

    @property
    def losses(self) -> tuple[float, ...]:
        """All objectives, each to be minimised; a failed one counts as no image right."""
        metric = 0.0 if math.isnan(self.metric) else self.metric
        return (self.cost, 1.0 - metric, *(1.0 if math.isnan(value) else value for value in self.more))


class Algorithm(Protocol):
    """Proposes schedules and learns from their outcomes; the same seed and answers give the same proposals.

    It is asked and told in turn, never looks at an image, and ends: where nothing new is left to propose, ``ask``
    gives an empty list and ``stopped_because`` says why.
    """

    stopped_because: str

    def ask(self) -> list[Choice]:
        """The next generation.

        Raises:
            RuntimeError: The outcomes of the last generation have not been told.
        """
        ...

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the schedules last asked, in their order.

        Raises:
            RuntimeError: Nothing was asked, or the number differs.
        """
        ...

    def done(self) -> bool:
        """Whether the last ``ask`` found nothing new."""
        ...

    def origin(self, schedule: Choice) -> str:
        """Who proposed it, for people: ``user``, ``dense``, ``taper``, ``random``, or the algorithm's own name."""
        ...

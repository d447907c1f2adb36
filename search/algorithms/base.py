"""What every search algorithm is: something that proposes schedules and is told what became of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tavt_kit.core.configuration import Choice

if TYPE_CHECKING:
    from tavt_kit.search.space import Space

POPULATION = 16
"""Schedules of a generation where nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmOptions:
    """What an algorithm is made of.

    Args:
        space: Schedules that may be proposed.
        seed: Seed of its own generators.
        cost: Gives what ``Outcome.cost`` will be.
        official_macs: Gives multiply-adds by TAVT's own formula.
        fits: Tells whether a schedule keeps to the ceilings.
        population: Schedules of a generation; None where the user asked for none.
        seeds: Schedules to begin with.
        objectives: Number of values of an outcome.
    """

    space: Space
    seed: int
    cost: Callable[[Any], float]
    official_macs: Callable[[Any], int]
    fits: Callable[[Any], bool]
    population: int | None = None
    seeds: Sequence[Choice] = ()
    objectives: int = 2

    @property
    def size(self) -> int:
        """Schedules of a generation."""
        return POPULATION if self.population is None else self.population


class Outcome(NamedTuple):
    """What became of a proposal.

    Args:
        cost: Any unit, finite.
        metric: NaN where the evaluation failed.
        shortfall: Amount by which a floor is missed; 0 where it is kept.
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

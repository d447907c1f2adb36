"""Search by chance: the yardstick that every other algorithm must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tavt_kit.errors import TavtError
from tavt_kit.schedule import TokenSchedule
from tavt_kit.search.algorithm import Outcome
from tavt_kit.search.seeds import Fits
from tavt_kit.search.space import Space
from tavt_kit.search.untried import EXHAUSTED, Untried

__all__ = ["ByChance"]


class ByChance:
    """Proposes the seeds, then schedules by chance within the ceilings, and learns nothing.

    Args:
        space: What may be proposed.
        seed: Of its own generator.
        population: Schedules of a generation, at least 1.
        seeds: Schedules to begin with.
        fits: Whether a schedule keeps to the ceilings.

    Example:
        >>> chance = ByChance(Space(tokens=17, layers=4), seed=0, population=5)
        >>> len(chance.ask())
        5
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        population: int = 16,
        seeds: Sequence[TokenSchedule] = (),
        fits: Fits | None = None,
    ) -> None:
        if population < 1:
            raise TavtError(f"a population needs at least 1 schedule, got {population}")
        self.stopped_because = ""
        self._population = population
        self._seeds = tuple(seeds)
        self._untried = Untried(space, rng=np.random.default_rng(seed), fits=fits)

    def ask(self) -> list[TokenSchedule]:
        """The next generation; see ``Algorithm``."""
        self._untried.check_told()
        genes = self._untried.random(self._population, self._seeds)
        self._seeds = ()
        if not genes:
            self.stopped_because = EXHAUSTED
        return self._untried.issue(genes, "random")

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Checks their number only."""
        self._untried.take(outcomes)

    def done(self) -> bool:
        """Whether the last ``ask`` found nothing new."""
        return bool(self.stopped_because)

    def origin(self, schedule: TokenSchedule) -> str:
        """``user`` or ``random``."""
        return self._untried.origin(schedule, "random")

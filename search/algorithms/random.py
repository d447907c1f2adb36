"""Search by chance: the yardstick that every other algorithm must beat."""

from __future__ import annotations

from collections.abc import Sequence

from tavt_kit.core.configuration import Choice
from tavt_kit.search.algorithms.base import Outcome
from tavt_kit.search.proposals import EXHAUSTED, Sampler


class RandomSearch(Sampler):
    """Proposes the seeds, then schedules by chance within the ceilings, and learns nothing.

    Example:
        >>> from tavt_kit.search import Space
        >>> from tavt_kit.core.layout import TokenLayout
        >>> chance = RandomSearch(Space(TokenLayout(17, 4)), seed=0, population=5)
        >>> len(chance.ask())
        5
    """

    name = "random"

    def ask(self) -> list[Choice]:
        """The next generation; see ``Algorithm``."""
        self._pool.check_told()
        genes = self._pool.random(self.population, self._seeds)
        self._seeds = ()
        if not genes:
            self.stopped_because = EXHAUSTED
        return self._pool.issue(genes, self.name)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Checks their number only."""
        self._pool.take(outcomes)

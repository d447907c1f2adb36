"""Search by chance: the yardstick that every other algorithm must beat."""

from __future__ import annotations

from tavt_kit.search.algorithms.base import Sampler
from tavt_kit.search.space import Levels


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

    def _first(self) -> list[Levels]:
        return self._pool.random(self.population, self._seeds)

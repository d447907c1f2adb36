"""What search algorithms share: a population, seeds to begin with, what is left untried, and what was told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tavt_kit.core.configuration import Choice
from tavt_kit.errors import TavtError
from tavt_kit.search.algorithm import Outcome
from tavt_kit.search.seeds import Fits
from tavt_kit.search.space import Levels, Space
from tavt_kit.search.told import Told
from tavt_kit.search.untried import EXHAUSTED, Untried

__all__ = ["Learner", "Proposer"]


class Proposer:
    """An ``Algorithm`` but for ``ask`` and ``tell``.

    Args:
        space: What may be proposed.
        seed: Of its own generator; nothing global is touched.
        population: Schedules of a generation, at least 1.
        seeds: Schedules to begin with, brought into the ceilings if they exceed them.
        fits: Whether a schedule keeps to the ceilings; only such are proposed. ``None``: all do.

    Raises:
        TavtError: A population below 1.
        BudgetTooTight: No schedule keeps to the ceilings.
    """

    name: str
    """Of the algorithm, as the origin of what it bred."""

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        population: int = 16,
        seeds: Sequence[Choice] = (),
        fits: Fits | None = None,
    ) -> None:
        if population < 1:
            raise TavtError(f"a population needs at least 1 schedule, got {population}")
        self.space, self.population, self.stopped_because = space, population, ""
        self._seeds = tuple(seeds)
        self._rng = np.random.default_rng(seed)
        self._untried = Untried(space, rng=self._rng, fits=fits)

    def done(self) -> bool:
        """Whether the last ``ask`` found nothing new; ``stopped_because`` says why."""
        return bool(self.stopped_because)

    def origin(self, schedule: Choice) -> str:
        """Who proposed it: ``user``, a family of first proposals, ``random``, or the algorithm's name."""
        return self._untried.origin(schedule, self.name)


class Learner(Proposer, ABC):
    """A proposer that breeds each generation from all that was told."""

    first_name: str
    """Origin of the first generation, where nothing else says."""

    _waiting: list[Levels]
    """Asked for and not yet told of."""

    @cached_property
    def _told(self) -> Told:
        return Told()

    def ask(self) -> list[Choice]:
        """The next generation; see ``Algorithm``."""
        self._untried.check_told()
        learnt = len(self._told) > 0
        genes = (self._bred() if learnt else self._first()) or self._untried.random(self.population)
        if not genes:
            self.stopped_because = EXHAUSTED
        self._waiting = genes
        return self._untried.issue(genes, self.name if learnt else self.first_name)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes; see ``Algorithm``."""
        self._untried.take(outcomes)
        self._told.add(self._waiting, outcomes)

    @abstractmethod
    def _first(self) -> list[Levels]:
        """The first generation."""

    @abstractmethod
    def _bred(self) -> list[Levels]:
        """A generation from what was told; none where nothing new comes of it."""

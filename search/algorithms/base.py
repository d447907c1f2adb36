"""What every search algorithm is: something that proposes schedules and is told what became of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.configuration import Choice
from tavt_kit.errors import TavtError
from tavt_kit.search.proposals import Fits, ProposalPool, non_dominated
from tavt_kit.search.space import Levels, Space

POPULATION = 16
"""Schedules of a generation where nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmOptions:
    """What an algorithm is made of: see ``Sampler``.

    Args:
        official_macs: Gives multiply-adds by TAVT's own formula.
        population: None where the user asked for none; then ``size`` is the usual.
    """

    space: Space
    seed: int
    cost: Callable[[Any], float]
    official_macs: Callable[[Any], int]
    fits: Fits
    population: int | None = None
    seeds: Sequence[Choice] = ()

    @property
    def size(self) -> int:
        """Schedules of a generation."""
        return POPULATION if self.population is None else self.population


class Outcome(NamedTuple):
    """What became of a proposal; the metric is NaN where the evaluation failed, ``shortfall`` is of the floors."""

    cost: float
    metric: float
    shortfall: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return math.isnan(self.metric)

    @property
    def losses(self) -> tuple[float, float]:
        """Both objectives, to be minimised; a failed evaluation counts as no image right."""
        return self.cost, 1.0 - (0.0 if self.failed else self.metric)


class Algorithm(Protocol):
    """Proposes schedules and learns from their outcomes; the same seed and answers give the same proposals.

    It is asked and told in turn, never looks at an image, and ends: where nothing new is left to propose, ``ask``
    gives an empty list and ``stopped_because`` says why.
    """

    stopped_because: str

    def ask(self) -> list[Choice]:
        """The next generation; raises RuntimeError where the outcomes of the last one have not been told."""

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the schedules last asked, in their order; raises RuntimeError where they are not these."""

    def done(self) -> bool:
        """Whether the last ``ask`` found nothing new; ``stopped_because`` says why."""
        return bool(self.stopped_because)

    def origin(self, schedule: Choice) -> str:
        """Who proposed it, for people: ``user``, ``dense``, ``taper``, ``random``, or the algorithm's own name."""


class Sampler(Algorithm):
    """An ``Algorithm`` that takes each generation from one pool, where it bred nothing new by chance.

    Args:
        seed: Seed of its own generator; nothing global is touched.
        population: Schedules of a generation, at least 1.
        seeds: Schedules to begin with, before its own; brought into the ceilings if they exceed them.
        fits: Whether a schedule keeps to the ceilings; only such are proposed. ``None``: all do.
        cost: Gives what ``Outcome.cost`` will be, for those that ask before they propose.

    Raises:
        TavtError: A population below 1.
        BudgetTooTight: No schedule keeps to the ceilings.
    """

    name: str
    """Name of the algorithm, as the origin of what it bred."""

    first_name = ""
    """Origin of the first generation, where nothing else says and it is not the name."""

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        population: int = POPULATION,
        seeds: Sequence[Choice] = (),
        fits: Fits | None = None,
        cost: Callable[[Any], float] | None = None,
    ) -> None:
        if population < 1:
            raise TavtError(f"a population needs at least 1 schedule, got {population}")
        self.space, self.population, self.stopped_because = space, population, ""
        self._seed, self._seeds, self._cost = seed, tuple(seeds), cost
        self._rng = np.random.default_rng(seed)
        self._pool = ProposalPool(space, rng=self._rng, fits=fits)
        self._told: list[Levels] = []
        self._outcomes: list[Outcome] = []
        self._waiting: list[Levels] = []

    def ask(self) -> list[Choice]:
        """The next generation: schedules never asked before; see ``Algorithm``."""
        if self._waiting:
            raise RuntimeError("tell the outcomes of the last generation before asking for the next")
        learnt = bool(self._told)
        self._waiting = (self._bred() if learnt else self._first()) or self._pool.random(self.population)
        if not self._waiting:
            self.stopped_because = "no schedule is left that was not tried"
        return self._pool.issue(self._waiting, self.name if learnt else self.first_name or self.name)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """See ``Algorithm``."""
        if not self._waiting or len(outcomes) != len(self._waiting):
            raise RuntimeError(f"{len(self._waiting)} schedules were asked, but {len(outcomes)} outcomes told")
        self._told += self._waiting
        self._outcomes += outcomes
        self._waiting = []

    def origin(self, schedule: Choice) -> str:
        """Who proposed it: ``user``, a family of first proposals, ``random``, or the algorithm's name."""
        return self._pool.origins.get(schedule, self.name)

    @abstractmethod
    def _first(self) -> list[Levels]:
        """The first generation."""

    def _bred(self) -> list[Levels]:
        """A generation from what was told; none where nothing new comes of it."""
        return []

    @property
    def _losses(self) -> NDArray[np.float64]:
        """(n, 2) of all that was told, to be minimised; see ``Outcome.losses``."""
        return np.array([outcome.losses for outcome in self._outcomes], dtype=float)

    @property
    def _missed(self) -> NDArray[np.float64]:
        """(n,) how far floors are missed; NaN where the evaluation failed."""
        return np.array([np.nan if outcome.failed else outcome.shortfall for outcome in self._outcomes])

    def _front(self) -> Levels:
        """(m, G): of what keeps to the floors (else of what is nearest to them) that which nothing dominates."""
        genes, missed = np.stack(self._told), self._missed
        if np.isnan(missed).all():
            return genes[:0]
        kept = missed == np.nanmin(missed)
        free: Levels = genes[kept][non_dominated(self._losses[kept])]
        return free


class RandomSearch(Sampler):
    """Proposes the seeds, then schedules by chance within the ceilings, and learns nothing: the others' yardstick."""

    name = "random"

    def _first(self) -> list[Levels]:
        return self._pool.random(self.population, self._seeds)

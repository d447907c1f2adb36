"""Evolution: NSGA-II by ask and tell on token schedules, with pymoo's survival and our own variation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem

from tavt_kit.errors import BudgetTooTight, TavtError
from tavt_kit.schedule import TokenSchedule
from tavt_kit.search.operators import cross, fit, mutate
from tavt_kit.search.seeds import Fits, first_proposals
from tavt_kit.search.space import Levels, Space

__all__ = ["Evolution", "Outcome"]

_TRIES = 400  # random draws for one missing schedule, before the space is listed or the search ends
_LISTABLE = 20_000  # spaces up to this size are listed to the end before they count as exhausted
_FILLED = 0.25  # share of the children that are grown up to the ceilings, where the best schedules lie


class Outcome(NamedTuple):
    """What became of a proposal.

    Args:
        cost: Any unit, finite.
        metric: NaN where the evaluation failed.
        shortfall: How far a floor is missed; 0 where it is kept.
    """

    cost: float
    metric: float
    shortfall: float = 0.0


class Evolution:
    """Proposes schedules, learns from their outcomes; the same seed and answers give the same proposals.

    Args:
        space: What may be proposed.
        seed: Of its own generator; nothing global is touched.
        population: Schedules of a generation, at least 2.
        seeds: Schedules to begin with, before its own; brought into the ceilings if they exceed them.
        fits: Whether a schedule keeps to the ceilings; only such are proposed. ``None``: all do.

    Example:
        >>> evolution = Evolution(Space(tokens=17, layers=4), seed=0, population=8)
        >>> proposals = evolution.ask()
        >>> evolution.tell([Outcome(sum(s.counts), s.counts[-1] / 17) for s in proposals])
        >>> len(proposals), len(set(proposals) & set(evolution.ask()))
        (8, 0)
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
        if population < 2:
            raise TavtError(f"a population needs at least 2 schedules, got {population}")
        self.space = space
        self.population = population
        self.stopped_because = ""
        self._fits: Fits = fits or (lambda schedule: True)
        if not self._fits(space.least):
            raise BudgetTooTight(f"not even the least schedule keeps to the ceilings: {space.least}")
        self._bounded = not self._fits(space.dense)
        self._seeds = tuple(seeds)
        self._rng = np.random.default_rng(seed)
        self._asked: set[bytes] = set()
        self._origins: dict[TokenSchedule, str] = {}
        self._waiting: Population | None = None
        self._algorithm: NSGA2 | None = None
        self._problem = Problem(n_var=space.genes, n_obj=2, n_ieq_constr=1, xl=0, xu=len(space.values) - 1)
        self._seed = seed

    def ask(self) -> list[TokenSchedule]:
        """The next generation: schedules never asked before; empty once no new one can be found.

        Raises:
            RuntimeError: The outcomes of the last generation have not been told.
        """
        if self._waiting is not None:
            raise RuntimeError("tell the outcomes of the last generation before asking for the next")
        genes = self._bred() if self._algorithm is not None else self._first()
        if not genes:
            genes = self._leftover()
        if not genes:
            self.stopped_because = "no schedule is left that was not tried"
            return []
        self._asked.update(row.tobytes() for row in genes)
        self._waiting = Population.new("X", np.stack(genes))
        schedules = [self.space.decode(row) for row in genes]
        for schedule in schedules:
            self._origins.setdefault(schedule, "nsga2")
        return schedules

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the schedules last asked, in their order.

        Raises:
            RuntimeError: Nothing was asked, or the number differs.
        """
        if self._waiting is None or len(outcomes) != len(self._waiting):
            asked = 0 if self._waiting is None else len(self._waiting)
            raise RuntimeError(f"{asked} schedules were asked, but {len(outcomes)} outcomes told")
        failed = np.array([np.isnan(outcome.metric) for outcome in outcomes])
        costs = np.array([outcome.cost for outcome in outcomes], dtype=float)
        losses = np.where(failed, 1.0, [1.0 - outcome.metric for outcome in outcomes])
        # A failed evaluation breaks the constraint worse than any missed floor (shortfalls are at most 1).
        missed = np.where(failed, 2.0, [outcome.shortfall for outcome in outcomes])
        answers = StaticProblem(self._problem, F=np.column_stack([costs, losses]), G=missed[:, None])
        Evaluator().eval(answers, self._waiting)
        if self._algorithm is None:
            self._algorithm = self._begin(self._waiting)
            self._algorithm.ask()  # pymoo begins when asked; what is evaluated it leaves as it is
        self._algorithm.tell(infills=self._waiting)
        self._waiting = None

    def done(self) -> bool:
        """Whether the last ``ask`` found nothing new; ``stopped_because`` says why."""
        return bool(self.stopped_because)

    def origin(self, schedule: TokenSchedule) -> str:
        """Who proposed it: ``user``, ``dense``, ``taper``, ``stages``, ``late``, ``random``, ``nsga2``."""
        return self._origins.get(schedule, "nsga2")

    def _begin(self, first: Population) -> NSGA2:
        algorithm = NSGA2(
            pop_size=self.population,
            sampling=first,
            crossover=_Crossing(),
            mutation=_Mutating(self.space),
            repair=_Fitting(self.space, self._fits, self._bounded),
            eliminate_duplicates=_Unasked(self._asked),
        )
        algorithm.setup(self._problem, termination=NoTermination(), seed=self._seed, verbose=False)
        return algorithm

    def _first(self) -> list[Levels]:
        """Seeds and, up to the population, random schedules; bounded, so a small space gives fewer."""
        found: dict[bytes, Levels] = {}
        for schedule in self._seeds:
            self._admit(found, schedule, "user")
        wanted = max(self.population, len(found))
        proposals = first_proposals(self.space, wanted, fits=self._fits, rng=self._rng)
        for schedule, origin in islice(proposals, wanted + _TRIES):
            if len(found) >= wanted:
                break
            self._admit(found, schedule, origin)
        return list(found.values())

    def _admit(self, found: dict[bytes, Levels], schedule: TokenSchedule, origin: str) -> None:
        genes = fit(self.space.encode(schedule), self.space, self._fits, fill=False)
        if genes.tobytes() not in self._asked:
            found.setdefault(genes.tobytes(), genes)
            self._origins.setdefault(self.space.decode(genes), origin)

    def _bred(self) -> list[Levels]:
        assert self._algorithm is not None
        children = self._algorithm.ask()
        if children is None:
            self._algorithm.termination.force_termination = False
            return []
        return [np.asarray(row, dtype=np.int64) for row in children.get("X")]

    def _leftover(self) -> list[Levels]:
        """New schedules where breeding finds none: by chance, then from the list of all."""
        found: dict[bytes, Levels] = {}
        for _ in range(_TRIES):
            self._admit(found, self.space.decode(self.space.sample(self._rng)), "random")
            if len(found) >= self.population:
                return list(found.values())
        if not found and self.space.size <= _LISTABLE:
            found = {row.tobytes(): row for row in islice(self._untried(), self.population)}
        return list(found.values())

    def _untried(self) -> Iterable[Levels]:
        for row in self.space.every():
            if row.tobytes() not in self._asked and self._fits(self.space.decode(row)):
                yield row


class _Crossing(Crossover):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=0.9)

    def _do(self, problem: Problem, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        """X (2, matings, G) -> children of the same shape."""
        pairs = [cross(a, b, random_state) for a, b in zip(X[0], X[1], strict=True)]
        return np.swapaxes(np.array(pairs), 0, 1)


class _Mutating(Mutation):  # type: ignore[misc]
    def __init__(self, space: Space) -> None:
        super().__init__(prob=0.9)
        self.space = space

    def _do(self, problem: Problem, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        return np.array([mutate(self.space.mend(row), self.space, random_state) for row in X])


class _Fitting(Repair):  # type: ignore[misc]
    """Rounds, orders and fits children into the ceilings; some are grown to them."""

    def __init__(self, space: Space, fits: Fits, bounded: bool) -> None:
        super().__init__()
        self.space, self.fits, self.bounded = space, fits, bounded

    def _do(self, problem: Problem, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        rows = []
        for row in self.space.mend(X):
            fill = self.bounded and bool(random_state.random() < _FILLED)
            rows.append(fit(row, self.space, self.fits, fill=fill))
        return np.array(rows)


class _Unasked(DuplicateElimination):  # type: ignore[misc]
    """Lets through what was never asked and is not among the others of its generation."""

    def __init__(self, asked: set[bytes]) -> None:
        super().__init__()
        self.asked = asked

    def do(self, pop: Any, *others: Any, **kwargs: Any) -> Any:
        taken = {individual.X.tobytes() for other in others for individual in other}
        keep = []
        for place, individual in enumerate(pop):
            key = individual.X.tobytes()
            if key not in self.asked and key not in taken:
                taken.add(key)
                keep.append(place)
        return pop[keep]

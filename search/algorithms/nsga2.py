"""Evolution: NSGA-II by ask and tell on token schedules, with pymoo's survival and our own variation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

from tavt_kit.core.configuration import Choice
from tavt_kit.search.algorithms.base import Outcome
from tavt_kit.search.proposals import EXHAUSTED, Fits, Sampler, cross, fit, mutate
from tavt_kit.search.space import Levels, Space

_FILLED = 0.25  # share of the children that are grown up to the ceilings, where the best schedules lie


class Evolution(Sampler):
    """Proposes schedules, learns from their outcomes; the same seed and answers give the same proposals.

    Args:
        space: Schedules that may be proposed.
        seed: Seed of its own generator; nothing global is touched.
        population: Schedules of a generation, at least 1 (the first has 2: children need two parents).
        seeds: Schedules to begin with, before its own; brought into the ceilings if they exceed them.
        fits: Whether a schedule keeps to the ceilings; only such are proposed. ``None``: all do.
        objectives: Number of values of an outcome, its cost and metric included.

    Example:
        >>> from tavt_kit.core.layout import TokenLayout
        >>> evolution = Evolution(Space(TokenLayout(17, 4)), seed=0, population=8)
        >>> proposals = evolution.ask()
        >>> evolution.tell([Outcome(sum(s.counts), s.counts[-1] / 17) for s in proposals])
        >>> len(proposals), len(set(proposals) & set(evolution.ask()))
        (8, 0)
    """

    name = "nsga2"

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        population: int = 16,
        seeds: Sequence[Choice] = (),
        fits: Fits | None = None,
        objectives: int = 2,
    ) -> None:
        super().__init__(space, seed=seed, population=population, seeds=seeds, fits=fits)
        self._bounded = not self._pool.fits(space.dense)
        self._waiting: Population | None = None
        self._algorithm: NSGA2 | None = None
        self._problem = Problem(n_var=space.genes, n_obj=objectives, n_ieq_constr=1, xl=0, xu=len(space.values) - 1)
        self._seed = seed

    def ask(self) -> list[Choice]:
        """The next generation: schedules never asked before; empty once no new one can be found.

        Raises:
            RuntimeError: The outcomes of the last generation have not been told.
        """
        self._pool.check_told()
        genes = self._bred() if self._algorithm is not None else self._first()
        if not genes:
            genes = self._pool.random(self.population)
        if not genes:
            self.stopped_because = EXHAUSTED
            return []
        self._waiting = Population.new("X", np.stack(genes))
        return self._pool.issue(genes, self.name)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the schedules last asked, in their order.

        Raises:
            RuntimeError: Nothing was asked, or the number differs.
        """
        self._pool.take(outcomes)
        losses = np.array([outcome.losses for outcome in outcomes], dtype=float)
        # A failed evaluation breaks the constraint worse than any missed floor (shortfalls are at most 1).
        missed = np.array([2.0 if outcome.failed else outcome.shortfall for outcome in outcomes])
        Evaluator().eval(StaticProblem(self._problem, F=losses, G=missed[:, None]), self._waiting)
        if self._algorithm is None:
            self._algorithm = self._begin(self._waiting)
            self._algorithm.ask()  # pymoo begins when asked; what is evaluated it leaves as it is
        self._algorithm.tell(infills=self._waiting)
        self._waiting = None

    def _begin(self, first: Population) -> NSGA2:
        algorithm = NSGA2(
            pop_size=max(2, self.population),
            n_offsprings=self.population,
            sampling=first,
            crossover=_Crossing(),
            mutation=_Mutating(self.space),
            repair=_Fitting(self.space, self._pool.fits, self._bounded),
            eliminate_duplicates=_Unasked(self._pool.asked),
        )
        algorithm.setup(self._problem, termination=NoTermination(), seed=self._seed, verbose=False)
        return algorithm

    def _first(self) -> list[Levels]:
        return self._pool.first(max(2, self.population), self._seeds)

    def _bred(self) -> list[Levels]:
        assert self._algorithm is not None
        children = self._algorithm.ask()
        if children is None:
            self._algorithm.termination.force_termination = False
            return []
        return [np.asarray(row, dtype=np.int64) for row in children.get("X")]


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
        for index, individual in enumerate(pop):
            key = individual.X.tobytes()
            if key not in self.asked and key not in taken:
                taken.add(key)
                keep.append(index)
        return pop[keep]

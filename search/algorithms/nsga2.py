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

from tavt_kit.search.algorithms.base import Outcome, Sampler
from tavt_kit.search.proposals import Fits, cross, fit, mutate
from tavt_kit.search.space import Levels, Space

_FILLED = 0.25  # share of the children that are grown up to the ceilings, where the best schedules lie


class Evolution(Sampler):
    """Proposes schedules, learns from their outcomes; the same seed and answers give the same proposals.

    The first generation has 2 schedules at least: children need two parents.

    Example:
        >>> from tavt_kit.core.layout import TokenLayout
        >>> evolution = Evolution(Space(TokenLayout(17, 4)), seed=0, population=8)
        >>> proposals = evolution.ask()
        >>> evolution.tell([Outcome(sum(s.counts), s.counts[-1] / 17) for s in proposals])
        >>> len(proposals), len(set(proposals) & set(evolution.ask()))
        (8, 0)
    """

    name = "nsga2"
    _algorithm: Any = None
    """The algorithm of pymoo, once a first generation was told."""

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """The outcomes of the schedules last asked, in their order; see ``Algorithm``."""
        genes, space = self._waiting, self.space
        super().tell(outcomes)
        generation = Population.new("X", np.stack(genes))
        if begins := self._algorithm is None:
            self._algorithm = NSGA2(
                pop_size=max(2, self.population),
                n_offsprings=self.population,
                sampling=generation,
                crossover=_Crossing(n_parents=2, n_offsprings=2, prob=0.9),
                mutation=_Mutating(space),
                repair=_Fitting(space, self._pool.fits),
                eliminate_duplicates=_Unasked(self._pool.asked),
            )
            problem = Problem(n_var=space.genes, n_obj=2, n_ieq_constr=1, xl=0, xu=len(space.values) - 1)
            self._algorithm.setup(problem, termination=NoTermination(), seed=self._seed, verbose=False)
        losses = np.array([outcome.losses for outcome in outcomes], dtype=float)
        # A failed evaluation breaks the constraint worse than any missed floor (shortfalls are at most 1).
        missed = np.array([2.0 if outcome.failed else outcome.shortfall for outcome in outcomes])
        Evaluator().eval(StaticProblem(self._algorithm.problem, F=losses, G=missed[:, None]), generation)
        if begins:
            self._algorithm.ask()  # pymoo begins when asked; what is evaluated it leaves as it is
        self._algorithm.tell(infills=generation)

    def _first(self) -> list[Levels]:
        return self._pool.first(max(2, self.population), self._seeds)

    def _bred(self) -> list[Levels]:
        children = self._algorithm.ask()
        if children is None:
            self._algorithm.termination.force_termination = False
            return []
        return [np.asarray(row, dtype=np.int64) for row in children.get("X")]


class _Crossing(Crossover):  # type: ignore[misc]
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

    def __init__(self, space: Space, fits: Fits) -> None:
        super().__init__()
        self.space, self.fits, self.bounded = space, fits, not fits(space.dense)

    def _do(self, problem: Problem, X: Any, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        return np.array([
            fit(row, self.space, self.fits, fill=self.bounded and bool(random_state.random() < _FILLED))
            for row in self.space.mend(X)
        ])  # fmt: skip


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

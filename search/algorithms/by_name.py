"""The search algorithms by the names that a user calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tavt_kit.core.configuration import Choice
from tavt_kit.errors import BudgetError, UnknownName
from tavt_kit.search.algorithms.base import Algorithm
from tavt_kit.search.algorithms.nsga2 import Evolution
from tavt_kit.search.algorithms.random import RandomSearch
from tavt_kit.search.algorithms.surrogate import Surrogate
from tavt_kit.search.algorithms.tavt import OfficialTavt, Tavt
from tavt_kit.search.proposals import Fits
from tavt_kit.search.space import Space

__all__ = ["ALGORITHMS", "POPULATION", "make_algorithm"]


ALGORITHMS = ("nsga2", "tavt", "tavt-official", "random", "surrogate")

POPULATION = 16
"""Schedules of a generation where nothing else is asked for."""


def make_algorithm(
    name: str,
    space: Space,
    *,
    seed: int,
    cost: Callable[[Any], float],
    official_macs: Callable[[Any], int],
    fits: Fits,
    population: int | None = None,
    seeds: Sequence[Choice] = (),
    objectives: int = 2,
) -> Algorithm:
    """A search algorithm at its beginning.

    Args:
        name: One of ``ALGORITHMS``.
        space: What may be proposed.
        seed: Of its own generators.
        cost: What ``Outcome.cost`` will be.
        official_macs: Multiply-adds by TAVT's own formula, for its official algorithm.
        fits: Whether a schedule keeps to the ceilings.
        population: Schedules of a generation; ``None`` for ``POPULATION``, or the official algorithm's own.
        seeds: Schedules to begin with.
        objectives: How many values an outcome has.

    Raises:
        UnknownName: No such algorithm.
        BudgetError: The official algorithm with what it does not know: seeds, other sizes, a third objective.
        ScheduleError: The official algorithm with a model or space that it does not know.
    """
    if name not in ALGORITHMS:
        raise UnknownName(f"a search algorithm is one of {', '.join(ALGORITHMS)}, got {name!r}")
    if name == "tavt-official":
        if population is not None or seeds or objectives != 2:
            raise BudgetError(
                "tavt-official has sizes of its own (22 schedules, then 60 a generation), begins with its own "
                "schedules and knows one cost and one metric, so it takes no population, no schedules and no third "
                "objective; use tavt for these"
            )
        return OfficialTavt(space, macs=official_macs, seed=seed)
    size = POPULATION if population is None else population
    if name == "random":
        return RandomSearch(space, seed=seed, population=size, seeds=seeds, fits=fits)
    if name == "tavt":
        return Tavt(space, seed=seed, population=size, seeds=seeds, fits=fits)
    if name == "surrogate":
        return Surrogate(space, cost=cost, seed=seed, population=size, seeds=seeds, fits=fits, objectives=objectives)
    return Evolution(space, seed=seed, population=size, seeds=seeds, fits=fits, objectives=objectives)

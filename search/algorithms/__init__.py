"""The search algorithms, by the names that a user calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tavt_kit.core.registry import Registry
from tavt_kit.errors import BudgetError
from tavt_kit.search.algorithms.base import Algorithm, AlgorithmOptions, RandomSearch, Sampler
from tavt_kit.search.algorithms.nsga2 import Evolution
from tavt_kit.search.algorithms.surrogate import Surrogate
from tavt_kit.search.algorithms.tavt import OfficialTavt, Tavt
from tavt_kit.search.space import Space


def _maker(kind: type[Sampler]) -> Callable[[AlgorithmOptions], Algorithm]:
    return lambda given: kind(
        given.space, seed=given.seed, population=given.size, seeds=given.seeds, fits=given.fits, cost=given.cost
    )  # fmt: skip


def _make_official(given: AlgorithmOptions) -> Algorithm:
    if given.population is not None or given.seeds:
        raise BudgetError(
            "tavt-official has sizes of its own (22 schedules, then 60 a generation), begins with its own schedules, "
            "so it takes no population and no schedules; use tavt for these"
        )
    return OfficialTavt(given.space, macs=given.official_macs, seed=given.seed)


ALGORITHMS: Registry[Callable[[AlgorithmOptions], Algorithm]] = Registry(
    "a search algorithm",
    "tavt_kit.algorithms",
    {
        "nsga2": _maker(Evolution),
        "tavt": _maker(Tavt),
        "tavt-official": _make_official,
        "random": _maker(RandomSearch),
        "surrogate": _maker(Surrogate),
    },
)
"""By name; another package adds one by an entry point of the group ``tavt_kit.algorithms``."""


def make_algorithm(name: str, space: Space, **options: Any) -> Algorithm:
    """A search algorithm at its beginning.

    Raises UnknownName where there is none of this name; BudgetError and ScheduleError where the official one does not
    know what is asked: seeds, other sizes, a model or space of another kind.
    """
    return ALGORITHMS[name](AlgorithmOptions(space=space, **options))

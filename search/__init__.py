"""tavt_kit.search: token schedules under a budget, found by evolution, every answer kept."""

from __future__ import annotations

from tavt_kit.core.callable_module import make_callable
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search.algorithms import ALGORITHMS
from tavt_kit.search.algorithms.base import Algorithm, Outcome
from tavt_kit.search.algorithms.nsga2 import Evolution
from tavt_kit.search.feasibility import Costs
from tavt_kit.search.objectives import Objectives, Progress, SearchResult
from tavt_kit.search.record import front_frame
from tavt_kit.search.space import Space
from tavt_kit.search.store import Store
from tavt_kit.search.study import Evaluate, one_by_one, search

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "EvaluationResult",
    "Costs",
    "Evaluate",
    "Evolution",
    "Objectives",
    "Outcome",
    "Progress",
    "SearchResult",
    "Space",
    "Store",
    "front_frame",
    "one_by_one",
    "search",
]

make_callable(__name__)

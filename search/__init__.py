"""tavt_kit.search: token schedules under a budget, found by evolution, every answer kept."""

from __future__ import annotations

from tavt_kit.search.algorithm import Outcome
from tavt_kit.search.evolution import Evolution
from tavt_kit.search.feasibility import Costs
from tavt_kit.search.loop import search
from tavt_kit.search.result import Progress, SearchResult
from tavt_kit.search.space import Space
from tavt_kit.search.store import Store

__all__ = ["Costs", "Evolution", "Outcome", "Progress", "SearchResult", "Space", "Store", "search"]

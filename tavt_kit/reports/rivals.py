"""The baselines in ``front.json`` that are no schedules: as rows, and what they say of the chosen candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.reports.rows import FinalView, better_baselines, final_rows
from tavt_kit.reports.views import mapping, sequence, text, whole

__all__ = ["better_rivals", "rival_rows"]


def rival_rows(front: Mapping[str, Any]) -> tuple[FinalView, ...]:
    """One row for each, in the order recorded."""
    return final_rows({"metric": text(front, "metric"), "rows": sequence(front, "rivals")})


def better_rivals(front: Mapping[str, Any]) -> list[str]:
    """A sentence for each that answers what was asked better than the chosen candidate does."""
    chosen = whole(front, "chosen")
    candidates = sequence(front, "candidates")
    if chosen is None or not 0 <= chosen < len(candidates):
        return []
    pick = {**mapping(candidates[chosen]), "name": "chosen", "kind": "chosen", "split": text(front, "split")}
    rows = [pick, *sequence(front, "rivals")]
    return better_baselines({"metric": text(front, "metric"), "budgets": sequence(front, "budgets"), "rows": rows})

"""Another budget than the search's: the point is chosen again, from what the search measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.errors import BudgetError
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Found, Records
from tavt_kit.reports.judging import best_of, judge_view
from tavt_kit.reports.numbers import ms_text
from tavt_kit.reports.views import CandidateView, mapping, sequence, whole

__all__ = ["asked"]


def asked(records: Records, budget: Budget) -> Records:
    """The records as if the search had been asked for ``budget``: its front judged and chosen from again.

    Baselines that the search measured beside its front, such as the dense model, may be chosen too.

    Args:
        records: With one search.
        budget: Given to the report.

    Raises:
        BudgetError: There is no front, or it does not record what the budget limits.
    """
    fronts = records.all("front")
    if not fronts:
        raise BudgetError(
            f"a report chooses for {', '.join(budget.texts())} from a measured front, but {', '.join(records.folders)} "
            "has none; run fgvc-kit search first"
        )
    body = _chosen_again(fronts[0].body, budget)
    before, after = FrontView.of(fronts[0].body).pick, FrontView.of(body).pick
    moved = before is None or after is None or before.schedule != after.schedule
    found = {**records.found, "front": (Found(fronts[0].path, body),)}
    found["final"] = tuple(Found(one.path, _final(one.body, budget, moved=moved)) for one in records.all("final"))
    return replace(records, found=found)


def _chosen_again(front: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
    view = FrontView.of(front)
    metric, batch = view.metric, whole(front, "target", "batch") or 1
    # Candidates change their places here, but an export picks them by those of the run's front.json.
    entries = [{**record, "place": int(key[1:])} if key[0] == "c" else record for record, key in view.choosable(front)]
    views = [CandidateView.of(record, metric) for record in entries]
    verdicts = [str(judge_view(one, budget, metric, batch)) for one in views]
    judged = [{**record, "verdict": verdict} for record, verdict in zip(entries, verdicts, strict=True)]
    place = best_of(
        verdicts, [one.accuracy.value if one.accuracy else None for one in views], cheapest=bool(budget.floors)
    )

    def judged_anew(name: str) -> list[dict[str, Any]]:
        records = [record for record in sequence(front, name) if isinstance(record, Mapping)]
        found = [judge_view(CandidateView.of(record, metric), budget, metric, batch) for record in records]
        return [{**record, "verdict": str(verdict)} for record, verdict in zip(records, found, strict=True)]

    return {
        **front,
        "budgets": budget.texts(),
        "searched_for": list(sequence(front, "budgets")),
        "candidates": judged,
        "baselines": judged_anew("baselines"),
        "measured": judged_anew("measured"),
        "chosen": place,
        "verdict": "FAIL" if place is None else verdicts[place],
        "undecided": _undecided(views[place], budget)
        if place is not None and verdicts[place] == "INCONCLUSIVE"
        else [],
        "measured_over_budget": None,
    }


def _undecided(pick: CandidateView, budget: Budget) -> list[str]:
    """Where the measured bounds lie on both sides of the line."""
    found = []
    for limit in budget.of("latency"):
        low, high = pick.time.bounds(limit.statistic or "p90") if pick.time else (0.0, math.inf)
        if low <= limit.value < high:
            ends = f"between {ms_text(low)} and {ms_text(high)}" if math.isfinite(high) else f"{ms_text(low)} or more"
            found.append(f"{limit}: the {limit.statistic} is {ends}; measure longer, on a quieter machine")
    return found


def _final(final: Mapping[str, Any], budget: Budget, *, moved: bool) -> dict[str, Any]:
    """The closing table: its verdicts were on the search's budget, and its choice may not be this one."""
    rows = []
    for row in sequence(final, "rows"):
        row = {**mapping({"row": row}, "row"), "verdict": None}
        if moved and row.get("kind") in ("chosen", "chosen-int8"):
            row |= {"kind": "other", "name": f"{row.get('name')} (the search's choice)"}
        rows.append(row)
    return {**final, "rows": rows, "budgets": budget.texts()}

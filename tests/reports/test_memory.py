"""Peak memory in a report: its words, its column and its verdict under another budget."""

from __future__ import annotations

from typing import Any

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.judging import judge_view
from tavt_kit.reports.sections.front import front_table
from tavt_kit.reports.sections.verdict import headline
from tavt_kit.reports.views import CandidateView
from tests.reports.test_verdict import entry, front, records, said


def sized(median: float | None, **more: Any) -> dict[str, Any]:
    peaks: dict[str, Any] = {"predicted": 300e6, "processes": 0}
    if median is not None:
        peaks = {"predicted": 300e6, "median": median, "least": median - 1e6, "most": median + 1e6, "processes": 3}
    return entry([65, 33, 33], 0.84, 8.0, "PASS", memory_bytes=peaks, **more)


@pytest.mark.parametrize(
    ("median", "limit", "verdict"),
    [(310e6, "311MB", "PASS"), (310e6, "310MB", "INCONCLUSIVE"), (310e6, "308MB", "FAIL"), (None, "300MB", "PREDICTED"),
     (None, "299MB", "FAIL")],
)  # fmt: skip
def test_a_memory_budget_is_judged_by_the_recorded_processes(median: float | None, limit: str, verdict: str) -> None:
    view = CandidateView.of(sized(median), "top1")
    assert str(judge_view(view, Budget.parse([f"memory={limit}"]), "top1")) == verdict


def test_the_headline_and_the_table_have_it() -> None:
    body = front(sized(310e6), chosen=0, budgets=["memory=320MB"], verdict="PASS")
    found = headline(records(front=body))
    assert "PASS, p90 8.40 ms" in said(found) and "peak memory 310.0 MB" in said(found)
    figure = next(one for one in found.figures if one.label == "peak memory")
    assert "budget 320MB" in figure.small and "at most 311.0" in figure.small
    titles = [column.title for column in front_table(FrontView.of(body)).columns]
    assert "Memory" in titles
    plain = front(entry([65, 33, 33], 0.84, 8.0, "PASS"))
    assert "Memory" not in [column.title for column in front_table(FrontView.of(plain)).columns]
    nothing = headline(
        records(front=front({**sized(310e6), "verdict": "FAIL"}, chosen=None, budgets=["memory=200MB"], verdict="FAIL"))
    )
    assert "candidate needs is 311.0 MB of memory; FAIL" in said(nothing)

"""Peak memory in a report: its words, its column and its verdict under another budget."""

from __future__ import annotations

from typing import Any

import pytest

from tavt_kit.core.budget import Budget
from tavt_kit.reports.answer import answer
from tavt_kit.reports.blocks import Section, Table, Text
from tavt_kit.reports.candidates import CandidateView, FrontView, asked, judge_view
from tavt_kit.reports.front import convergence_section, front_section, front_table
from tests.reports.test_answer import entry, front, records, said


def sized(median: float, **more: Any) -> dict[str, Any]:
    peaks = {"median": median, "least": median - 1e6, "most": median + 1e6, "processes": 3}
    return entry([65, 33, 33], 0.84, 8.0, "PASS", memory_bytes=peaks, **more)


@pytest.mark.parametrize(
    ("median", "limit", "verdict"),
    [(310e6, "311MB", "PASS"), (310e6, "310MB", "INCONCLUSIVE"), (310e6, "308MB", "FAIL")],
)
def test_a_memory_budget_is_judged_by_the_recorded_processes(median: float, limit: str, verdict: str) -> None:
    view = CandidateView(sized(median), "top1")
    assert str(judge_view(view, Budget.parse([f"memory={limit}"]), "top1")) == verdict


def test_what_was_measured_over_the_budget_is_shown_and_counted() -> None:
    chosen = entry([65, 40, 20], 0.84, 6.9, "PASS")
    slow, dear = entry([65, 64, 63], 0.83, 9.0, "FAIL"), entry([65, 50, 30], 0.84, 7.2, "PASS")
    body = front(chosen, chosen=0, verdict="PASS", measured=[chosen, slow, dear], measured_over_budget=1)
    section = front_section(records(front=body))
    assert isinstance(section, Section)
    tables = [one for one in section.blocks if isinstance(one, Table)]
    (over,) = [one for one in tables if "over the budget" in one.caption]
    assert [row[0].text for row in over.rows] == ["65,64,63"]
    went = convergence_section(records(front=body))
    assert isinstance(went, Section)
    told = " ".join("".join(map(str, one.parts)) for one in went.blocks if isinstance(one, Text))
    assert "3 schedules measured end to end" in told
    (again,) = asked(records(front=body), Budget.parse(["latency=10ms"])).all("front")
    assert [one["verdict"] for one in again.body["measured"]] == ["PASS", "PASS", "PASS"]


def test_the_headline_and_the_table_have_it() -> None:
    body = front(sized(310e6), chosen=0, budgets=["memory=320MB"], verdict="PASS")
    found = answer(records(front=body))
    assert "PASS, p90 8.40 ms" in said(found) and "peak memory 310.0 MB" in said(found)
    figure = next(one for one in found.figures if one.label == "peak memory")
    assert "budget 320MB" in figure.small and "at most 311.0" in figure.small
    titles = [column.title for column in front_table(FrontView(body)).columns]
    assert "Memory" in titles
    plain = front(entry([65, 33, 33], 0.84, 8.0, "PASS"))
    assert "Memory" not in [column.title for column in front_table(FrontView(plain)).columns]
    nothing = answer(
        records(front=front({**sized(310e6), "verdict": "FAIL"}, chosen=None, budgets=["memory=200MB"], verdict="FAIL"))
    )
    assert "candidate needs is 311.0 MB of memory; FAIL" in said(nothing)

"""The section that shows how a search went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tavt_kit.reports.blocks import Figure, Missing, Section, Text
from tavt_kit.reports.front import convergence_section
from tavt_kit.reports.records import Found, Records

COUNTS = {"chosen": [9, 7, 5], "least": [5, 3, 3], "taper": [8, 6, 4]}


def records(history: list[float], seconds: list[object], **more: Any) -> Records:
    def one(name: str, origin: str) -> dict[str, Any]:
        return {"schedule": COUNTS[name], "macs": 10, "top1": 0.5, "origin": origin, "latency_ms": None}

    body = {
        "candidates": [one("least", "nsga2"), one("chosen", "nsga2")], "baselines": [one("taper", "taper")],
        "chosen": 1, "metric": "top1", "history": history, **more,
    }  # fmt: skip
    rows = tuple({"seconds": str(value)} for value in seconds)
    return Records({"front": (Found(Path("front.json"), body),)}, rows)


def blocks(section: Section | Missing) -> tuple[list[Text], list[Figure]]:
    assert isinstance(section, Section)
    return (
        [one for one in section.blocks if isinstance(one, Text)],
        [one for one in section.blocks if isinstance(one, Figure)],
    )


def test_volume_over_evaluations() -> None:
    texts, figures = blocks(convergence_section(records([0.0, 0.2, 0.4, 0.4], [1.0, 2.5, 3.0, 9.0])))
    assert "After 3 of 4 evaluations" in str(texts[0].parts) and "0.4000" in str(texts[0].parts)
    assert [one.name for one in figures] == ["Hypervolume of the front over evaluations"]
    assert ">evaluations<" in str(figures[0].image)


def test_what_is_missing_is_left_out() -> None:
    assert isinstance(convergence_section(Records({})), Missing)
    assert isinstance(convergence_section(records([0.3], [], candidates=[], baselines=[])), Missing)
    texts, _ = blocks(convergence_section(records([0.0, 0.0], [])))
    assert "found nothing" in str(texts[0].parts)


def test_a_long_search_keeps_its_last_point() -> None:
    _, figures = blocks(convergence_section(records([i / 1000 for i in range(1001)], [])))
    assert "about evaluations" in str(figures[0].image) and ">1000<" in str(figures[0].image)

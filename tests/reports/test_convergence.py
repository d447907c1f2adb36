"""The section that says how a search went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tavt_kit.reports.blocks import Missing, Section, Text
from tavt_kit.reports.front import convergence_section
from tavt_kit.reports.records import RecordFile, Records

COUNTS = {"chosen": [9, 7, 5], "least": [5, 3, 3], "taper": [8, 6, 4]}


def records(history: list[float], **more: Any) -> Records:
    def one(name: str, origin: str) -> dict[str, Any]:
        return {"schedule": COUNTS[name], "macs": 10, "top1": 0.5, "origin": origin, "latency_ms": None}

    body = {
        "candidates": [one("least", "nsga2"), one("chosen", "nsga2")], "baselines": [one("taper", "taper")],
        "chosen": 1, "metric": "top1", "history": history, **more,
    }  # fmt: skip
    return Records({"front": (RecordFile(Path("front.json"), body),)})


def sentences(section: Section | Missing) -> list[str]:
    assert isinstance(section, Section)
    return [str(block.parts[0]) for block in section.blocks if isinstance(block, Text)]


def test_volume_over_evaluations() -> None:
    (sentence,) = sentences(convergence_section(records([0.0, 0.2, 0.4, 0.4])))
    assert "After 3 of 4 evaluations" in sentence and "0.4000" in sentence


def test_what_is_missing_is_left_out() -> None:
    assert isinstance(convergence_section(Records({})), Missing)
    assert isinstance(convergence_section(records([0.3], candidates=[], baselines=[])), Missing)
    assert "found nothing" in sentences(convergence_section(records([0.0, 0.0])))[0]

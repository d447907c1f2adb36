"""Seeded searches under a budget of multiply-adds: what they evaluate, in which order, and the front they find."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.exact import arithmetic
from tests.golden.golden import Golden, rounded
from tests.verbs.command import run

SEARCHES: dict[str, tuple[object, ...]] = {
    "nsga2": ("--fix", "all", "--evaluations", 40, "--population", 6),
    "nsga2-screened": ("--fix", "all", "--evaluations", 24, "--population", 6, "--screen", 4),
    "surrogate": ("--algorithm", "surrogate", "--evaluations", 9, "--population", 3),
    "tavt": ("--algorithm", "tavt", "--evaluations", 24, "--population", 6),
    "tavt-official": ("--algorithm", "tavt-official", "--evaluations", 24),
    "random": ("--algorithm", "random", "--fix", "all", "--evaluations", 24, "--population", 6),
    "joint": ("--score", "any", "--evaluations", 24, "--population", 6),
}
BY_ITS_BITS = ("surrogate",)
"""What a regression proposes next hangs on the last bits of the linear algebra; it takes 10 s too."""
OF_THE_MOMENT = ("seconds", "host", "command")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in BY_ITS_BITS else ()) for name in SEARCHES]
)
def test_a_seeded_search(name: str, golden: Golden, start: Path, data: Path, tmp_path: Path) -> None:
    budget = ("--budget", "flops=70K", "--no-baselines")
    assert run("search", start, "--data", data, *budget, *SEARCHES[name], "-o", tmp_path / "found") == 0
    front = json.loads((tmp_path / "found" / "front.json").read_text(encoding="utf-8"))
    for key in OF_THE_MOMENT:
        del front[key]
    found = {"front": rounded(front), "evaluations": evaluations(tmp_path / "found")}
    if name in BY_ITS_BITS:
        found["arithmetic"] = arithmetic()
        known = golden.expected(f"search-{name}", found)["arithmetic"]
        if known != arithmetic():
            pytest.skip(f"recorded on {known}; this is {arithmetic()}")
    golden.compare(f"search-{name}", found)


def evaluations(folder: Path) -> list[list[Any]]:
    """Of each evaluation in its order: the schedule, how many images were right of how many, and the other metrics."""
    with closing(sqlite3.connect(folder / "search.db")) as base:
        rows = base.execute("SELECT schedule, accuracy, failure, bits, metrics FROM evaluations ORDER BY number")
        return [_row(*row) for row in rows]


def _row(schedule: str, accuracy: str | None, failure: str | None, bits: bytes | None, metrics: str) -> list[Any]:
    found = json.loads(accuracy) if accuracy else None
    right = None
    if found is not None and bits is not None:
        right = int(np.unpackbits(np.frombuffer(bits, np.uint8)).sum())
        assert right == round(found["value"] * found["n"])
    return [schedule, right, found and found["n"], failure, rounded(json.loads(metrics))]

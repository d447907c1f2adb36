"""Multiply-adds of every kind of model, by each rule, of a dense, a tapering and a staged schedule."""

from __future__ import annotations

import tavt_kit as tk
from tests.contracts import zoo
from tests.golden.golden import Golden

RULES = ("executed", "tavt", "matmul")


def counted(kind: str) -> dict[str, dict[str, int]]:
    """Schedule -> rule -> multiply-adds of one image."""
    model = tk.wrap(zoo.build(kind))
    schedules = {text: tk.TokenSchedule.parse(text, model.layout) for text in ("dense", "taper:0.3", "stages:0.5")}
    return {
        text: {rule: tk.count_macs(model, schedule, rule) for rule in RULES} for text, schedule in schedules.items()
    }


def test_multiply_adds(golden: Golden) -> None:
    golden.compare("macs", {kind: counted(kind) for kind in zoo.ZOO})

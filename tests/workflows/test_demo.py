"""``demo`` as a Python function, and how its verb shows what it tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tavt_kit.core.model_card import Licence
from tavt_kit.errors import UnknownName
from tavt_kit.verbs.demo_view import DemoProgress
from tavt_kit.workflows.demo import DemoBudget, DemoResult, DemoStage, DemoTerms, demo


def test_an_unknown_data_set_is_refused_before_anything_is_written(tmp_path: Path, quiet: None) -> None:
    with pytest.raises(UnknownName, match="elpv or textile, got 'birds'"):
        demo("birds", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_it_tells_is_shown_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    terms = DemoTerms((Licence("cells", "CC BY-NC-SA 4.0", "its page"), Licence("weights", "MIT", "PyPI")), "A note.")
    with DemoProgress() as progress:
        progress.show(terms)
        progress.show(DemoStage("search"))
        progress.show(DemoBudget((10.0, 12.04), 12.04, 0.6, "latency=7.22ms"))
        progress.show(DemoStage("search", 2.6))
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "cells: CC BY-NC-SA 4.0 (its page); nothing of it is redistributed",
        "weights: MIT (PyPI); nothing of it is redistributed",
        "A note.",
        "Not for commercial use; those who may not use them: fgvc-kit demo --data textile",
        "",
        "== search",
        "   dense p90: 10.0, 12.0 ms; the budget is 60 % of 12.0 ms: latency=7.22ms",
        "   3 s",
    ]


def test_a_result_is_rows(tmp_path: Path) -> None:
    row = {"name": "dense f32", "kind": "dense", "top1": 0.7, "macs": 9, "verdict": "FAIL"}
    timed = {**row, "latency_ms": {"median": 5.0, "p90": 6.0}}
    done = DemoResult(tmp_path, ("A sentence.",), 61.4, {"rows": [timed, {**row, "latency_ms": None}]})
    table = done.to_frame()
    assert list(table["p90"].isna()) == [False, True] and list(table["macs"]) == [9, 9]
    assert repr(done) == f"<DemoResult {tmp_path}: 2 files, 61 s>" and done.report == tmp_path / "report.html"

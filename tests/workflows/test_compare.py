"""``compare`` from Python, and records of searches without a target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tavt_kit.core.budget import Verdict
from tavt_kit.errors import ParameterError, RecordError
from tavt_kit.workflows.compare import compare
from tests.verbs.command import run
from tests.verbs.test_compare import HOST, bench_file
from tests.verbs.tiny import write_images, write_run


def test_it_says_what_the_verb_says_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = bench_file(tmp_path / "a.json", {"dense": 20.0, "taper": 10.0})
    after = bench_file(tmp_path / "b.json", {"dense": 18.0, "taper": 11.0})
    found = compare(before, str(after))
    assert capfd.readouterr() == ("", "")
    assert run("compare", before, after, "--json") == 1
    assert json.loads(capfd.readouterr().out) == found.record
    assert found.verdict is Verdict.FAIL and repr(found) == "<compared: FAIL, 2 of bench>"
    frame = found.to_frame()
    assert list(frame["name"]) == ["dense", "taper"] and list(frame["verdict"]) == ["PASS", "FAIL"]
    assert frame["change"][1] == pytest.approx(1.1) and frame["low"][1] > 1.05
    assert compare(before, after, threshold=0.15).verdict is Verdict.PASS
    assert compare(after).comparisons[0].changes[0].name == "dense"  # the candidates of one bench
    with pytest.raises(ParameterError, match="`threshold` is above 0"):
        compare(before, after, threshold=0.0)
    with pytest.raises(RecordError, match="`across`"):
        compare(before, bench_file(tmp_path / "c.json", {"dense": 20.0}, host=replace(HOST, cpu="another")))


def test_searches_by_multiply_adds_are_compared_by_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = write_images(tmp_path / "data", each=20), write_run(tmp_path / "run")
    limits = ("--budget", "flops=400K", "--evaluations", 6, "--population", 3, "--no-baselines")
    assert run("search", model, "--data", data, *limits, "-o", tmp_path / "found") == 0
    front = json.loads((tmp_path / "found" / "front.json").read_text())
    assert front["target"] is None
    capsys.readouterr()
    assert run("compare", tmp_path / "found", tmp_path / "found") == 0
    assert "front: " in capsys.readouterr().out
    (found,) = compare(tmp_path / "found", tmp_path / "found").comparisons
    assert {change.figure for change in found.changes} == {"top1"}
    assert all(change.estimate.value == 0.0 for change in found.changes)
    on_target = {**front, "target": {"runtime": "torch", "processor": "cpu"}}
    (tmp_path / "measured.json").write_text(json.dumps(on_target))
    with pytest.raises(RecordError, match=r"differ in target \(not told and torch:cpu"):
        compare(tmp_path / "found" / "front.json", tmp_path / "measured.json")

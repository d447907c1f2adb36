"""``fgvc-kit show``: the front, a pick, the knee."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.cli import main
from tests.reports.records import write_run


def show(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["show", *map(str, arguments)])
    return int(end.value.code or 0)


def test_prints_the_front_and_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert show(run.folder) == 0
    said = capsys.readouterr().out
    assert "fits 11\u00a0ms (p90)" in said and "PASS: Ship the chosen schedule" in said and "dense" in said
    assert f"> {run.candidates[3].schedule} " in said


def test_pick_and_knee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    costs = [one.cost("p90") for one in run.candidates]
    limit = (costs[1] + costs[2]) / 2
    assert show(run.folder, "--pick", f"latency={limit}ms") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run.candidates[1].schedule)
    assert show(run.folder, "--pick", f"top1={run.candidates[2].metric}", "--json") == 0
    picked = json.loads(capsys.readouterr().out)["picked"]
    assert picked["schedule"] == list(run.candidates[2].schedule.counts)
    assert show(run.folder, "--pick", "drop=100") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run.candidates[0].schedule)
    assert show(run.folder, "--pick", "latency=1us") == 1
    assert show(run.folder, "--knee") == 0
    assert capsys.readouterr().out.splitlines()[-1] in {str(one.schedule) for one in run.candidates}


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(tmp_path) == 2
    run = write_run(tmp_path / "run")
    assert show(run.folder, "--pick", "memory=1GB") == 2
    assert show(run.folder, "--pick", "fast") == 2
    assert show(run.folder, "--knee", "--pick", "flops=1G") == 2
    assert "Traceback" not in capsys.readouterr().err

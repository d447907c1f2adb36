"""``report`` from Python: the files that the verb writes, without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.errors import RecordError
from tavt_kit.workflows.report import report
from tests.reports.records import write_run
from tests.verbs.command import run


def test_it_writes_what_the_verb_writes_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run").folder
    found = report(folder, out=tmp_path / "python")
    assert capfd.readouterr() == ("", "")
    assert run("report", folder, "-o", tmp_path / "verb") == 0
    printed = capfd.readouterr().out.split()
    for path, name in zip((found.html, found.csv, found.json), printed, strict=True):
        assert path.parent == tmp_path / "python" and path.name == Path(name).name
        assert path.read_bytes() == Path(name).read_bytes()
    assert found.record == json.loads(found.json.read_text()) and found.record["budgets"] == ["latency=11ms"]
    frame = found.to_frame()
    assert len(frame) == len(found.record["rows"]) and "points_against_dense" in frame
    assert repr(found) == f"<report: {found.html}>"


def test_what_cannot_be_reported_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no record"):
        report(tmp_path)
    several = [write_run(tmp_path / name).folder for name in ("a", "b")]
    with pytest.raises(RecordError, match="a report is of one search"):
        report(several, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()

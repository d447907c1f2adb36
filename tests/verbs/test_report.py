from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tavt_kit.cli import main
from tests.reports.records import write_run


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, arguments)])
    return int(end.value.code or 0)


def test_it_writes_beside_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run").folder
    assert run(folder) == 0
    assert (folder / "report.html").is_file() and not (folder / "report.md").exists()
    said = capsys.readouterr()
    assert str(folder / "report.html") in said.out and re.search(r": PASS: Ship the chosen schedule: \d+", said.err)


def test_out_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run").folder
    assert run(folder / "front.json", "-o", tmp_path / "new" / "place", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["html"]).parent == tmp_path / "new" / "place" and Path(said["csv"]).is_file()
    assert not (folder / "report.html").exists()


def test_bad_input_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 2
    assert "holds no record" in capsys.readouterr().err
    assert run(tmp_path / "gone") == 2
    (tmp_path / "file").write_text("x")
    assert run(write_run(tmp_path / "run").folder, "-o", tmp_path / "file") == 2
    assert "choose another output folder" in capsys.readouterr().err


def test_a_report_is_of_one_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = write_run(tmp_path / "a").folder, write_run(tmp_path / "b").folder
    assert run(first, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "PASS" and said["budgets"] == ["latency=11ms"]
    assert Path(said["json"]) == first / "report.json" and Path(said["csv"]).is_file()
    assert run(first, second) == 2
    assert f"a report is of one search, but {first}, {second} holds 2" in capsys.readouterr().err

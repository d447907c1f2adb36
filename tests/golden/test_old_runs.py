"""Run folders that version 1 wrote: today's readers open every one, and what was killed goes on to its end."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.golden.exact import arithmetic, bits, weights, without_keys
from tests.golden.golden import FOLDER
from tests.verbs.command import run

RUNS = FOLDER / "runs-v1" / "runs.tar.xz"
WRITTEN_ON = "AMD EPYC, AVX2, torch 2.13.0+cpu"
"""The arithmetic of the archive; elsewhere the first steps of what goes on differ from today's in their last bits."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The run folders of version 1, unpacked."""
    with tarfile.open(RUNS) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("show found", 0),
        ("show measured --knee", 0),
        ("show found --pick flops=35K", 0),
        ("show measured --pick latency=400ms", 0),
        ("report trained distilled found exported checked benched -o out", 0),
        ("report measured -o out", 0),
        ("compare benched benched", 0),
        ("compare measured measured", 0),
        ("eval trained --data {data}", 0),
        ("eval exported/model.f32.onnx --data {data}", 0),
        ("predict exported/model.f32.onnx {data}/disc/0.png", 0),
        ("check exported/model.f32.onnx --against found --data {data} -o out", 0),
        ("export found --pick 0 --format onnx --data {data} -o out", 0),
        ("export measured --pick fast --format safetensors --data {data} -o out", 0),
        ("distill trained --schedules found --steps 1 --batch 4 --data {data} -o out", 0),
        ("search distilled --front found --budget flops=35K --evaluations 6 --population 3 --no-baselines "
         "--data {data} -o out", 0),
        ("search distilled --profile profiled/profile.json --budget latency=500ms --evaluations 6 --population 3 "
         "--no-baselines --data {data} -o out", 1),  # PREDICTED
    ],
)  # fmt: skip
def test_todays_readers_open_them(
    line: str, code: int, runs: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    assert run(*line.format(data=data).split()) == code, capsys.readouterr().err
    if " -o out" in line:
        assert any((runs / "out").iterdir())
    else:
        assert capsys.readouterr().out


def test_a_killed_search_goes_on(runs: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    search = ("search", "distilled", "--budget", "flops=35K", "--evaluations", 40, "--population", 4, "--no-baselines",
              "--min-patches", 1, "--fix", "all")  # fmt: skip
    old = evaluated(runs / "killed-search")
    assert len(old) == 9
    assert run(*search, "--data", data, "-o", "killed-search") == 0
    # What it begins with was chosen by the older program; no answer is lost or asked for again.
    found = evaluated(runs / "killed-search")
    assert found[:9] == old and len({schedule for schedule, _ in found}) == len(found) >= 40


def evaluated(folder: Path) -> list[tuple[str, str]]:
    """Schedules and accuracies in the order they were stored."""
    with closing(sqlite3.connect(folder / "search.db")) as base:
        return base.execute("SELECT schedule, accuracy FROM evaluations ORDER BY number").fetchall()


def test_a_killed_distillation_goes_on_to_the_same_weights(
    runs: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    begun = len((runs / "killed-distillation" / "metrics.jsonl").read_text().splitlines())
    distill = ("distill", "trained", "--steps", 40, "--batch", 4, "--lr", 1e-3, "--data", data, "--precision", "f32")
    assert run(*distill, "-o", "killed-distillation") == 0
    assert run(*distill, "-o", "whole") == 0
    lines = [json.loads(line) for line in (runs / "killed-distillation" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 41)) and begun < 40
    resumed, whole, start = (weights(runs / name) for name in ("killed-distillation", "whole", "trained"))
    assert arithmetic() != WRITTEN_ON or bits(resumed) == bits(whole)
    for name in whole:
        change, off = (without_keys(name, whole[name] - other[name]) for other in (start, resumed))
        assert float(off.norm()) <= 1e-3 * float(change.norm()), name


def test_every_folder_is_opened(runs: Path) -> None:
    """No folder of the archive is left out above."""
    source = Path(__file__).read_text(encoding="utf-8")
    for folder in runs.iterdir():
        assert folder.name in source, folder.name

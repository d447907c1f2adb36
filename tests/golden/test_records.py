"""The keys and JSON types of every record the verbs write, and the tables of a search's store."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shorten_series
from tests.golden.golden import Golden
from tests.verbs.command import run

TARGET = "torch:cpu:threads=1"


@pytest.fixture(scope="module")
def runs(start: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of run folders, made one from the other by the real verbs."""
    folder = tmp_path_factory.mktemp("runs")
    trained, distilled, found, exported = (folder / name for name in ("trained", "distilled", "found", "exported"))
    steps = ("--steps", 2, "--batch", 4)
    assert run("train", start, "--data", data, "--recipe", "finetune", *steps, "-o", trained) == 0
    assert run("distill", trained, *steps, "-o", distilled) == 0
    search = ("search", distilled, "--evaluations", 6, "--population", 3, "--fix", "all", "--no-baselines")
    assert run(*search, "--budget", "flops=70K", "-o", found) == 0
    assert run("export", found, "--format", "onnx", "-o", exported) == 0
    assert run("check", exported / "model.f32.onnx", "--against", found, "-o", folder / "checked") == 0
    with pytest.MonkeyPatch.context() as patch:
        shorten_series(patch)
        assert run("profile", distilled, "--target", TARGET, "--max-time", "1s", "-o", folder / "profiled") == 0
    table = folder / "profiled" / "profile.json"
    predicted = (*search, "--profile", table, "--budget", "latency=500ms", "-o", folder / "predicted")
    assert run(*predicted) == 1  # PREDICTED: nothing was measured here
    bench = ("bench", distilled, "--schedule", "dense", "--schedule", "taper:0.3", "--target", TARGET)
    brief = ("--batch", 64, "--min-time", 0.05, "--max-time", "1s")
    assert run(*bench, *brief, "-o", folder / "benched") == 0
    return folder


RECORDS = {
    "model.json": "distilled/model.json",
    "split.json": "distilled/split.json",
    "run.json of train": "trained/run.json",
    "run.json of distill": "distilled/run.json",
    "recipe.json": "found/recipe.json",
    "front.json by multiply-adds": "found/front.json",
    "front.json by a profile": "predicted/front.json",
    "report.json": "found/report.json",
    "exported.json": "exported/exported.json",
    "check.json of export": "exported/check.json",
    "check.json of check": "checked/check.json",
    "profile.json": "profiled/profile.json",
    "bench.json": "benched/bench.json",
}


def test_records(golden: Golden, runs: Path) -> None:
    golden.compare_structure("records", {name: read(runs / place) for name, place in RECORDS.items()})


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_measured_front(golden: Golden, start: Path, data: Path, tmp_path: Path) -> None:
    """The keys that only a search on a measured target writes."""
    search = ("search", start, "--data", data, "--target", TARGET, "--budget", "latency=500ms")
    brief = ("--evaluations", 4, "--population", 2, "--final", 1, "--fix", "all")  # else the baselines are joint
    assert run(*search, *brief, "-o", tmp_path / "measured") == 0
    golden.compare_structure("record-measured", {"front.json": read(tmp_path / "measured" / "front.json")})


def test_the_store_of_a_search(golden: Golden, runs: Path) -> None:
    with closing(sqlite3.connect(runs / "found" / "search.db")) as base:
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        columns = {table: base.execute(f"SELECT * FROM pragma_table_info('{table}')").fetchall() for table in tables}
        recipe, notes = (
            [name for (name,) in base.execute(f"SELECT name FROM {table} ORDER BY name")]
            for table in ("recipe", "notes")
        )
    golden.compare("store", {"tables": columns, "names in recipe": recipe, "names in notes": notes})

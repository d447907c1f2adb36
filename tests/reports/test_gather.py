from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.core.records import write_record
from tavt_kit.errors import RecordError
from tavt_kit.reports.provenance import card_of
from tavt_kit.reports.records import gather
from tests.reports.records import EMPTY_FRONT


def record(path: Path, kind: str, **body: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, kind, body)
    return path


def test_records_are_found_by_schema_nearest_first(tmp_path: Path) -> None:
    record(tmp_path / "export" / "int8" / "check.json", "check", depth=2)
    record(tmp_path / "export" / "check.json", "check", depth=1)
    record(tmp_path / "edge-box.json", "bench", depth=0)
    record(tmp_path / "a" / "b" / "c" / "bench.json", "bench", depth=3)
    record(tmp_path / ".hidden" / "bench.json", "bench", depth=1)
    found = gather([tmp_path])
    assert [one.body["depth"] for one in found.all("check")] == [1, 2]
    assert [one.body["depth"] for one in found.all("bench")] == [0]
    assert found.first("front") == {} and found.all("run") == ()


def test_single_records_and_several_places(tmp_path: Path) -> None:
    bench = record(tmp_path / "x.json", "bench", n=1)
    record(tmp_path / "run" / "run.json", "run", n=2)
    found = gather([bench, tmp_path / "run", bench])
    assert len(found.all("bench")) == 1 and found.first("run")["n"] == 2


def test_what_lies_beside_comes_first(tmp_path: Path) -> None:
    record(tmp_path / "model.json", "model", name="outer")
    record(tmp_path / "search" / "model.json", "model", name="inner")
    record(tmp_path / "search" / "front.json", "front", **EMPTY_FRONT)
    found = gather([tmp_path])
    assert card_of(found)["name"] == "inner"
    assert found.first("model")["name"] == "outer"


def test_a_search_shows_the_training_of_the_run_that_it_began_with(tmp_path: Path) -> None:
    for name in ("distilled", "found"):
        record(tmp_path / name / "model.json", "model", weights_sha256="ab")
    for folder, steps in (("distilled", 300), ("distilled/control", 301)):
        record(tmp_path / folder / "run.json", "run", n=steps)
    record(tmp_path / "found" / "front.json", "front", **EMPTY_FRONT)
    record(tmp_path / "found" / "recipe.json", "recipe", model="elsewhere/distilled")
    assert [one.body["n"] for one in gather([tmp_path / "found"]).all("run")] == [300, 301]
    record(tmp_path / "found" / "recipe.json", "recipe", model=str(tmp_path / "found" / ".." / "distilled"))
    assert len(gather([tmp_path / "distilled", tmp_path / "found"]).all("run")) == 2  # each once
    record(tmp_path / "distilled" / "model.json", "model", weights_sha256="cd")  # trained anew since
    assert gather([tmp_path / "found"]).all("run") == ()


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{not json")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "strange.json").write_text(json.dumps({"schema": "fgvc-kit/unknown", "version": 1}))
    record(tmp_path / "run.json", "run")
    assert set(gather([tmp_path]).by_kind) == {"run"}


@pytest.mark.parametrize("text", ["", "{", "\ufffd{}}"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "front.json").write_text(text)
    with pytest.raises(RecordError, match=r"front\.json is damaged"):
        gather([tmp_path])


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(RecordError, match=r"front\.json is damaged"):
        gather([tmp_path])


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text('{"schema": "fgvc-kit/front", "version": 3}')
    with pytest.raises(RecordError, match="version 3 of fgvc-kit/front, but this program reads version 2"):
        gather([tmp_path])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="neither a run folder nor a record"):
        gather([tmp_path / "gone"])
    with pytest.raises(RecordError, match="holds no record"):
        gather([tmp_path])
    (tmp_path / "my.json").write_text("{}")
    with pytest.raises(RecordError, match="holds no record"):
        gather([tmp_path / "my.json"])

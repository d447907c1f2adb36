from __future__ import annotations

import json
from pathlib import Path

import pytest

from tavt_kit.core.records import (
    atomic_path,
    atomic_text,
    make_folder,
    read_record,
    sha256_file,
    sha256_text,
    write_record,
)
from tavt_kit.errors import OutputError, RecordError


def test_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", "fgvc-kit/test", 1, {"x": [1, 2.5, None], "name": "ä"})
    assert read_record(tmp_path / "a.json", "fgvc-kit/test", 1)["x"] == [1, 2.5, None]
    assert list(json.loads((tmp_path / "a.json").read_text()))[:2] == ["schema", "version"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON record"),
        ("[1]", "but is 'list'"),
        ('{"schema": "other", "version": 1}', "must be a fgvc-kit/test record"),
        ('{"schema": "fgvc-kit/test", "version": 2}', "version 2"),
    ],
)
def test_other_records_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path / "a.json", "fgvc-kit/test", 1)
    with pytest.raises(RecordError, match="cannot read"):
        read_record(tmp_path / "absent.json", "fgvc-kit/test", 1)


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_record(tmp_path / "a.json", "fgvc-kit/test", 1, {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another"):
        make_folder(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="cannot write"):
        atomic_text(tmp_path / "absent" / "a.txt", "x")


def test_hashes(tmp_path: Path) -> None:
    atomic_text(tmp_path / "a.txt", "x")
    assert sha256_file(tmp_path / "a.txt") == sha256_text("x")

from __future__ import annotations

import json
import subprocess
import sys
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
    write_record(tmp_path / "a.json", "recipe", {"x": [1, 2.5, None], "name": "ä"})
    assert read_record(tmp_path / "a.json", "recipe")["x"] == [1, 2.5, None]
    assert list(json.loads((tmp_path / "a.json").read_text()))[:2] == ["schema", "version"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON record"),
        ("[1]", "but is 'list'"),
        ('{"schema": "other", "version": 1}', "must be a fgvc-kit/front record"),
        ('{"schema": "fgvc-kit/front", "version": 3}', "version 3"),
    ],
)
def test_other_records_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path / "a.json", "front")
    with pytest.raises(RecordError, match="cannot read"):
        read_record(tmp_path / "absent.json", "front")


def test_an_unknown_kind_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_record(tmp_path / "a.json", "fgvc-kit/front", {})
    assert list(tmp_path.iterdir()) == []


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_record(tmp_path / "a.json", "front", {"x": float("nan")})
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


WRITERS = {
    "text": "file.write_text('x' * 100_000)",
    "weights": "import torch, safetensors.torch as st; st.save_file({'a': torch.zeros(9999)}, file)",
    "state": "import torch; torch.save({'a': torch.zeros(9999)}, file)",
    "array": "import numpy as np; np.save(file.open('wb'), np.zeros(9999))",
    "image": "from PIL import Image; import os; Image.frombytes('L', (99, 99), os.urandom(9801)).save(file, 'png')",
}


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on file sizes fails a write as a full disk does, in a process of its own."""
    pytest.importorskip("resource")
    for writer in WRITERS:
        (tmp_path / writer).mkdir()
        (tmp_path / writer / "record.json").write_text("old")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from tavt_kit.core.records import atomic_path; from tavt_kit.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    )
    for writer, how in WRITERS.items():
        code += (
            f"try:\n    with atomic_path(Path(sys.argv[1]) / '{writer}' / 'record.json') as file:\n        {how}\n"
            "except OutputError as error:\n    print(error)\n"
        )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    for writer in WRITERS:
        path = tmp_path / writer / "record.json"
        reason = "it could not be written to its end" if writer in ("state", "array") else "File too large"
        assert f"cannot write {path}: {reason}; make room" in done.stdout
        assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_json_nested_too_deep_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(RecordError, match="nested too deep"):
        read_record(path, "front")


def test_a_file_is_replaced_as_a_whole_and_never_written_in_place(tmp_path: Path) -> None:
    """What was linked to the old file still has its bytes: nobody can have read half of the new ones."""
    path, kept = tmp_path / "record.json", tmp_path / "kept.json"
    path.write_text("old")
    kept.hardlink_to(path)
    atomic_text(path, "new")
    assert (path.read_text(), kept.read_text()) == ("new", "old")

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tavt_kit.core.lock import held_folder
from tavt_kit.errors import OutputError


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder until it is killed."""
    code = (
        "import sys, time; from tavt_kit.core.lock import held_folder\n"
        "with held_folder(sys.argv[1]):\n    print('held', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(OutputError, match=f"process {process.pid} on "), held_folder(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "run" / ".lock").is_file()
    (tmp_path / "run" / ".tmp-export-abc").mkdir()
    (tmp_path / "run" / ".tmp-front-abc.json").write_text("half")
    with held_folder(tmp_path / "run") as folder, held_folder(folder):
        (folder / "result").write_text("x")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["result"]


def test_a_refusal_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held_folder(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_many_processes_never_hold_it_at_once(tmp_path: Path) -> None:
    """Each writes its number and reads it again; the file comes and goes between them."""
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from tavt_kit.core.lock import held_folder; from tavt_kit.errors import OutputError\n"
        "place, held = Path(sys.argv[1]), 0\n"
        "while held < 20:\n"
        "    try:\n"
        "        with held_folder(place):\n"
        "            (place / 'who').write_text(str(os.getpid())); time.sleep(0.001)\n"
        "            assert (place / 'who').read_text() == str(os.getpid()); held += 1\n"
        "    except OutputError:\n        time.sleep(0.001)\n"
    )
    many = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2]) for _ in "abc"]
    assert [process.wait(60) for process in many] == [0, 0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["who"]

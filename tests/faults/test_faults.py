"""Planted faults: every one in ``faults.toml`` must make a test fail that is aimed at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAULTS: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("faults.toml").read_text())["fault"]
COPIED = ("tavt_kit", "search", "distill", "bench", "cli.py", "tests", "examples", "pyproject.toml")


@pytest.mark.parametrize("fault", FAULTS, ids=[fault["name"] for fault in FAULTS])
def test_a_fault_can_be_planted(fault: dict[str, Any]) -> None:
    assert (ROOT / fault["file"]).read_text().count(fault["old"]) == 1, "write the fault anew: its code has changed"
    assert fault["new"] != fault["old"] and all((ROOT / test).is_file() for test in fault["tests"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=[fault["name"] for fault in FAULTS])
def test_a_planted_fault_is_found(fault: dict[str, Any], tmp_path: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    file = tmp_path / fault["file"]
    file.write_text(file.read_text().replace(fault["old"], fault["new"]))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *fault["tests"]]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1 and " failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]

"""``fgvc-kit search --workers``: the same front, whoever evaluates."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.cli import main
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.workflows.search_evaluation import WorkerPayload
from tests.verbs.tiny import CLASSES

ROOT = Path(__file__).parents[2]


def arguments(place: Path, out: Path, *flags: object) -> list[str]:
    fixed = ("search", place / "run", "--data", place / "data", "--budget", "flops=300K", "--population", "8",
             "--screen", "4", "--min-patches", "1", "--no-baselines", "--fix", "all")  # fmt: skip
    return [str(argument) for argument in (*fixed, "-o", out, *flags)]


def run(*given: Any) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments(*given))
    return int(end.value.code or 0)


def front(out: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((out / "front.json").read_text())
    del body["seconds"], body["host"]
    return body


def test_a_worker_answers_as_this_process_does(place: Path) -> None:
    model = load_model(place / "run")
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 255, (20, 3, 32, 32), dtype=np.uint8), rng.integers(0, 3, 20)
    preprocessing = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    make = partial(Evaluator, preprocessing=preprocessing, scoring=Scoring(("top1", "macro_f1"), labels, CLASSES))
    payload = WorkerPayload(place / "run", pixels, labels, make, "cpu", threads=1)
    parcel = pickle.loads(pickle.dumps(payload))
    schedules = [model.dense_schedule, TokenSchedule((17, 12, 6, 6))]
    parts = [(schedule, start, stop) for start, stop in ((0, 20), (8, 20)) for schedule in schedules]
    there = {part: answer for part, answer in parcel()(parts)}
    here = make(model, pixels, labels)
    assert set(there) == set(parts)
    for part in parts:
        ((_, answer),) = here.look([part[0]], *part[1:])
        assert there[part].accuracy == answer.accuracy and there[part].metrics == answer.metrics
        assert there[part].correct is not None and (there[part].correct == answer.correct).all()
    assert there[parts[0]].metrics and there[parts[0]] != there[parts[1]]


def test_no_worker_at_all_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, tmp_path / "out", "--workers", 0) == 2
    assert "--workers must be at least 1, got 0" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_workers_find_the_very_front(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, tmp_path / "here", "--evaluations", 30) == 0
    assert run(place, tmp_path / "there", "--evaluations", 30, "--workers", 2) == 0
    assert "2 worker processes" in capsys.readouterr().err
    assert front(tmp_path / "there") == front(tmp_path / "here")
    assert run(place, tmp_path / "there", "--evaluations", 40) == 0  # and goes on alone


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_no_worker_is_left_and_the_same_command_goes_on(
    place: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C as a terminal does it, to the whole group of processes; kill -9 to the searching one alone."""
    out = tmp_path / "out"
    command = [sys.executable, "cli.py", *arguments(place, out, "--evaluations", 5000, "--workers", 2)]
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if "/5000 evaluations" in line and not line.startswith("1/"):
            break
    assert len(members(child.pid)) >= 3
    if how == signal.SIGINT:
        os.killpg(child.pid, how)
    else:
        child.send_signal(how)
    rest = child.communicate(timeout=120)[1]
    assert child.returncode == (130 if how == signal.SIGINT else -how), said + [rest]
    assert "Traceback" not in rest and ("the same command goes on" in rest or how == signal.SIGKILL)
    deadline = time.monotonic() + 60
    while members(child.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members(child.pid)
    assert run(place, out, "--evaluations", 12) == 0 and front(out)["evaluations"] == 12


def members(group: int) -> list[int]:
    """The processes of a group that are left."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found

"""``fgvc-kit search --workers`` and ``--engine ray``: the same front, whoever evaluates."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tavt_kit.checkpoints import load_model
from tavt_kit.cli import main
from tavt_kit.core.model_card import CARD_FILE, WEIGHTS_FILE
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.workflows.search_evaluation import Part, WorkerPayload
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
    files = {name: (place / "run" / name).read_bytes() for name in (CARD_FILE, WEIGHTS_FILE)}
    parcel = pickle.loads(pickle.dumps(WorkerPayload(files, pixels, labels, make, "cpu", threads=1)))
    schedules = [model.dense_schedule, TokenSchedule((17, 12, 6, 6))]
    parts = [Part(schedule, start, stop) for start, stop in ((0, 20), (8, 20)) for schedule in schedules]
    there = {part: answer for part, answer in parcel()(parts)}
    here = make(model, pixels, labels)
    assert set(there) == set(parts)
    for part in parts:
        ((_, answer),) = here.look([part.schedule], part.start, part.stop)
        assert there[part].accuracy == answer.accuracy and there[part].metrics == answer.metrics
        assert there[part].correct is not None and (there[part].correct == answer.correct).all()
    assert there[parts[0]].metrics and there[parts[0]] != there[parts[1]]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--workers", 0), "--workers must be at least 1, got 0"),
        (("--engine", "spark"), "--engine is local or ray, got 'spark'"),
        (("--ray-address", "10.0.0.5:6379"), "--ray-address is for --engine ray"),
    ],
)
def test_flags_that_make_no_sense(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], says: str
) -> None:
    assert run(place, tmp_path / "out", *flags) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_ray_nothing_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(place, tmp_path / "out", "--engine", "ray") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "tavt-kit[distributed]" in said and not (tmp_path / "out").exists()


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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster of two machines with a CPU each, both of them this one."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        machines.add_node(num_cpus=1)
    yield machines.address
    machines.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_ray_cluster_finds_the_very_front(
    place: Path, tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "here", "--evaluations", 30) == 0
    flags = ("--evaluations", 30, "--engine", "ray", "--ray-address", cluster)
    assert run(place, tmp_path / "there", *flags) == 0
    assert "2 workers on the Ray cluster, one CPU each" in capsys.readouterr().err
    assert front(tmp_path / "there") == front(tmp_path / "here")

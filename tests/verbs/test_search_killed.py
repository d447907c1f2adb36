"""kill -9 at whatever moment: no answer is lost, and the search that is continued ends with the very same front."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import random
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from tavt_kit.cli import main
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.search import EvaluationResult, Store

_CONTEXT = multiprocessing.get_context("forkserver")
# The server imports torch and the rest once; its children are forks of it.
_CONTEXT.set_forkserver_preload(["tests.verbs.test_search_killed", "tavt_kit.workflows.search"])

_EACH = 0.004
"""Seconds by which an evaluation is prolonged, so that kills hit evaluations too."""


def arguments(place: Path, out: Path, *flags: object) -> list[str]:
    fixed = ("search", place / "run", "--data", place / "data", "--budget", "flops=300K", "--population", "8",
             "--min-patches", "1", "--fix", "all", "--no-baselines")  # fmt: skip
    return [str(argument) for argument in (*fixed, "-o", out, *flags)]


def run_here(*given: Any) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments(*given))
    return int(end.value.code or 0)


def run_watched(log: Path, given: list[str]) -> None:
    """The command as it is, but that each schedule is written down once ``add`` has promised that it is stored."""
    torch.set_num_threads(1)
    add, look = Store.add, Evaluator.look

    def noted(self: Store, schedule: TokenSchedule, answer: EvaluationResult) -> None:
        add(self, schedule, answer)
        with log.open("a") as file:
            file.write(f"{json.dumps(schedule.counts)}\n")

    def prolonged(
        self: Evaluator, schedules: Sequence[TokenSchedule], start: int, stop: int
    ) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        for pair in look(self, schedules, start, stop):
            time.sleep(_EACH)
            yield pair

    Store.add, Evaluator.look = noted, prolonged  # type: ignore[method-assign]
    # What it says is not looked at; its end is.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)
    main(given)


def start(log: Path, given: list[str]) -> BaseProcess:
    child = _CONTEXT.Process(target=run_watched, args=(log, given))
    child.start()
    return child


def stored(log: Path) -> list[TokenSchedule]:
    """What was promised to be stored; a line that a killed process could not finish is no promise."""
    text = log.read_text() if log.is_file() else ""
    return [TokenSchedule(tuple(json.loads(line))) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def wait_for(log: Path, number: int, child: BaseProcess) -> None:
    """Until so many answers are stored, or the child has ended."""
    deadline = time.monotonic() + 120
    while child.is_alive() and len(stored(log)) < number and time.monotonic() < deadline:
        time.sleep(0.002)


def front(out: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((out / "front.json").read_text())
    del body["seconds"], body["host"]
    return body


@pytest.mark.parametrize(
    ("kills", "evaluations", "further"),
    [
        (2, 30, ()),
        pytest.param(50, 150, (), marks=pytest.mark.slow),
        pytest.param(15, 100, ("--screen", 3), marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(
    place: Path, tmp_path: Path, kills: int, evaluations: int, further: tuple[object, ...]
) -> None:
    flags = ("--evaluations", evaluations, *further)
    assert run_here(place, tmp_path / "whole", *flags) == 0
    draws, killed, number = random.Random(0), 0, 0
    out, log = tmp_path / "cut-0", tmp_path / "log-0"
    while killed < kills:
        child = start(log, arguments(place, out, *flags))
        more = draws.randint(0, max(1, 2 * evaluations // kills))
        wait_for(log, min(evaluations, len(stored(log)) + more), child)
        time.sleep(draws.uniform(0, 2 * _EACH if more else 0.5))
        child.kill()
        child.join()
        if child.exitcode != -signal.SIGKILL:  # it came to its end before: another is begun
            assert front(out) == front(tmp_path / "whole")
            number += 1
            out, log = tmp_path / f"cut-{number}", tmp_path / f"log-{number}"
            continue
        killed += 1
        if (out / "search.db").is_file():
            with Store(out / "search.db") as store:
                assert all(store.get(schedule) is not None for schedule in stored(log))
                assert len(store) <= len(stored(log)) + killed  # it may have died between storing and saying so
    assert run_here(place, out, *flags) == 0
    assert front(out) == front(tmp_path / "whole") and len(front(out)["candidates"]) > 1
    assert len(set(stored(log))) == len(stored(log))  # nothing was evaluated twice


def test_the_second_process_on_a_run_is_told_who_holds_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    child = start(log, arguments(place, out, "--evaluations", 2000))
    wait_for(log, 3, child)
    for fresh in ((), ("--fresh",)):
        assert run_here(place, out, "--evaluations", 2000, *fresh) == 2
        assert f"is held by process {child.pid} on {platform.node()} since" in capsys.readouterr().err
    assert child.is_alive()
    child.kill()
    child.join()
    assert len(stored(log)) > 2
    assert run_here(place, out, "--evaluations", 3) == 0

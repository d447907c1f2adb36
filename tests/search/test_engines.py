"""Workers: answers stream back, the front is the in-process one, and whoever dies is replaced."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.budget import Budget
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import SearchResult, Store, search
from tavt_kit.search.workers import WorkerEvent, Workers
from tests.search.engine_workers import Toy, make_nothing_answered
from tests.search.test_loop import summary
from tests.search.toy import COSTS, SPACE, answers

BUDGET = Budget.parse(["latency=9ms"])
SIX = [TokenSchedule((9, count)) for count in range(3, 9)]


class Pretended(Workers):
    """Workers without processes: they do as the script says for each work that is given, then answer honestly.

    Args:
        script: ``"dies"`` or ``"answers one and dies"``, for the works given first.
        fatal: A schedule over which every worker dies.
        starts: Whether workers start at all.
    """

    def __init__(
        self, *script: str, count: int, at_once: int | None = 1, fatal: TokenSchedule | None = None, starts: bool = True
    ) -> None:
        super().__init__(make_nothing_answered, count, at_once)
        self.script, self.fatal, self.starts = deque(script), fatal, starts
        self.given: list[tuple[int, list[TokenSchedule]]] = []
        self.told: deque[WorkerEvent] = deque()

    def start(self, number: int) -> None:
        self.told.append(WorkerEvent(number, idle=True) if self.starts else WorkerEvent(number, lost="no memory"))

    def give(self, worker: int, schedules: Sequence[TokenSchedule]) -> None:
        self.given.append((worker, list(schedules)))
        act = self.script.popleft() if self.script else "answers"
        if act == "answers one and dies":
            self.told += [WorkerEvent(worker, [one(schedules[0])]), WorkerEvent(worker, lost="killed")]
        elif act == "dies" or self.fatal in schedules:
            self.told.append(WorkerEvent(worker, lost="killed"))
        else:
            self.told.append(WorkerEvent(worker, [one(schedule) for schedule in schedules], idle=True))

    def events(self) -> Iterator[WorkerEvent]:
        yield self.told.popleft()


def one(schedule: TokenSchedule) -> tuple[TokenSchedule, EvaluationResult]:
    return schedule, EvaluationResult(Accuracy.of_counts(schedule.counts[1], 9, split="val"), 2.0)


def test_work_is_shared_out_and_answered_once() -> None:
    workers = Pretended(count=2, at_once=4)
    got = list(workers(SIX))
    assert [schedule for schedule, _ in got] == SIX and workers.started == 2
    assert [given for _, given in workers.given] == [SIX[:4], SIX[4:]]
    assert all(answer.timings["worker"] == 2.0 and answer.seconds < 1 for _, answer in got)
    assert list(workers(SIX[:2])) and workers.started == 2  # the same workers go on


def test_shares() -> None:
    """Several at once, where an evaluator gains from neighbours: two parts for each worker, so that none waits long."""
    for count, sizes in ((1, [3, 3]), (2, [2, 2, 2]), (4, [1] * 6)):
        workers = Pretended(count=count, at_once=None)
        assert {schedule for schedule, _ in workers(SIX)} == set(SIX)
        assert [len(given) for _, given in workers.given] == sizes
    assert list(Pretended(count=2, at_once=None)([])) == []


def test_what_a_lost_worker_had_goes_to_another_each_schedule_alone() -> None:
    workers = Pretended("answers one and dies", count=1, at_once=3)
    got = dict(workers(SIX))
    assert set(got) == set(SIX) and all(answer.failure is None for answer in got.values())
    assert [given for _, given in workers.given] == [SIX[:3], SIX[1:2], SIX[2:3], SIX[3:]]
    assert workers.started == 2


def test_a_schedule_that_loses_every_worker_fails_and_the_others_are_answered() -> None:
    workers = Pretended(count=2, at_once=3, fatal=SIX[1])
    got = dict(workers(SIX))
    assert [schedule for schedule in SIX if got[schedule].failure] == SIX[1:2]
    assert "3 workers were lost over this schedule" in str(got[SIX[1]].failure) and workers.started == 4


def test_workers_that_never_start_are_given_up() -> None:
    workers = Pretended(count=2, starts=False)
    with pytest.raises(MeasurementError, match="3 workers one after the other could not start: no memory"):
        list(workers(SIX))
    assert workers.started <= 4


def test_an_abandoned_call_disturbs_the_next_one_not() -> None:
    workers = Pretended(count=2)
    coming = workers(SIX)
    assert next(coming)[0] == SIX[0]
    coming.close()
    assert {schedule for schedule, _ in workers(SIX[3:])} == set(SIX[3:])


def searched(workers: Workers, *, store: Store | None = None) -> SearchResult:
    return search(SPACE, workers, costs=COSTS, budget=BUDGET, evaluations=40, population=8, seed=3, store=store)


@pytest.mark.slow
def test_processes_find_the_very_front_though_one_of_them_is_killed(tmp_path: Path) -> None:
    here = search(SPACE, answers, costs=COSTS, budget=BUDGET, evaluations=40, population=8, seed=3)
    with Workers(Toy(tmp_path, dies=1, seconds=0.002), 2) as workers:
        there = searched(workers)
        assert workers.started == 3
        processes = [worker.process for worker in workers._workers.values()]
    assert summary(there) == summary(here) and there.history == here.history
    assert len((tmp_path / "log").read_text().splitlines()) == 40  # nothing evaluated twice
    assert all(process.exitcode is not None for process in processes)


@pytest.mark.slow
def test_a_schedule_that_kills_is_recorded_as_failed(tmp_path: Path) -> None:
    honest = search(SPACE, answers, costs=COSTS, budget=BUDGET, evaluations=40, population=8, seed=3)
    fatal = honest.candidates[3].schedule
    with Store(tmp_path / "search.db") as store, Workers(Toy(fatal=fatal), 2) as workers:
        result = searched(workers, store=store)
        answer = store.get(fatal)
    assert answer is not None and "signal 9" in str(answer.failure) and result.evaluations == 40
    assert all(candidate.schedule != fatal for candidate in result.front)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (Toy(wrong="starting"), MeasurementError, "a worker cannot work: the images are gone"),
        (Toy(wrong="answering"), RuntimeError, "ZeroDivisionError: in the middle"),
        (make_nothing_answered, RuntimeError, "left 1 schedules unanswered"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_said(make: Toy, error: type[Exception], says: str) -> None:
    with Workers(make, 1) as workers, pytest.raises(error, match=says):
        list(workers(SIX[:1]))


@pytest.mark.slow
def test_ctrl_c_ends_all_workers(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with Workers(Toy(tmp_path, seconds=0.05), 2) as workers:
            for number, _ in enumerate(workers(SIX)):
                if number == 2:
                    processes = [worker.process for worker in workers._workers.values()]
                    threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
                    threading.Event().wait(5)
    assert len(processes) == 2 and all(process.exitcode is not None for process in processes)


def test_a_worker_that_dies_while_it_starts_is_heard_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its work is larger than a pipe holds, so that nobody reads what is written to it; that must not be waited for."""
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nexit 7\n")
    dying.chmod(0o755)
    resource_tracker.ensure_running()  # a process of its own, which is to live
    monkeypatch.setattr("multiprocessing.spawn._python_exe", str(dying).encode())
    heard = list[str]()

    def start() -> None:
        try:
            with Workers(partial(len, bytes(1 << 22)), 2) as workers:
                list(workers([1]))
        except MeasurementError as error:
            heard.append(str(error))

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(30)
    assert heard == ["3 workers one after the other could not start: it ended with exit code 7"]

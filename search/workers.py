"""Work shared out among workers, here processes: answers stream back, and what a lost worker had goes to another."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from tavt_kit.errors import MeasurementError, TavtError
from tavt_kit.evaluation.result import EvaluationResult

Task = TypeVar("Task", bound=Hashable)
"""What a worker is given: a schedule, or a schedule with the images to look at; it can be pickled."""

MakeEvaluate = Callable[[], Callable[[Sequence[Any]], Iterable[tuple[Any, EvaluationResult]]]]
"""Makes an evaluator of tasks where it is called: pickled and sent to each worker, which calls it once."""

_TRIES = 3
"""Workers that one schedule may lose before it counts as failed; as many may fail to start, one after the other."""

_log = logging.getLogger(__name__)


class WorkerEvent(NamedTuple):
    """What is heard of a worker.

    Args:
        worker: Its number; a lost worker's is never given again.
        answers: That have come.
        idle: Whether it waits for work now: it has started, or has done all it was given.
        lost: Why it will never answer again, as a clause; ``None`` while it lives.
    """

    worker: int
    answers: Sequence[tuple[Any, EvaluationResult]] = ()
    idle: bool = False
    lost: str | None = None


class WorkerPool(Protocol):
    """Workers that each hold an evaluator."""

    def start(self) -> int:
        """Begin to start a worker; its number. It is heard of when it waits for work, or is lost."""
        ...

    def give(self, worker: int, schedules: Sequence[Any]) -> None:
        """Give work to a worker that waits for it."""
        ...

    def events(self) -> Iterable[WorkerEvent]:
        """Wait until something is heard; errors of the evaluator itself, a bug, are raised."""
        ...

    def close(self) -> None:
        """End all workers, whatever they do."""
        ...


@dataclass
class Workers:
    """An evaluator out of a pool, as ``Evaluate`` says; the pool stays between calls, until closed.

    What the workers answer does not depend on which of them is asked, so neither does a search.

    Args:
        pool: Not started yet.
        count: Workers, at least 1.
        at_once: How many neighbours of those asked are given to a worker at a time; ``None``, where an evaluator
            gains from seeing several, for half of each worker's equal share.
    """

    pool: WorkerPool
    count: int
    at_once: int | None = 1
    _idle: deque[int] = field(default_factory=deque, init=False)
    _held: dict[int, list[Any]] = field(default_factory=dict, init=False)
    _starting: set[int] = field(default_factory=set, init=False)
    _unstarted: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.count < 1 or (self.at_once is not None and self.at_once < 1):
            raise ValueError(f"at least one worker and one schedule, got {self.count} and {self.at_once}")

    def __call__(self, schedules: Sequence[Task]) -> Generator[tuple[Task, EvaluationResult]]:
        """Answers in the order in which they come; their seconds add up to the time that passes here."""
        missing = dict.fromkeys(schedules)
        size = self.at_once or max(1, -(-len(schedules) // (2 * self.count)))
        waiting = deque(list(schedules[start : start + size]) for start in range(0, len(schedules), size))
        losses: Counter[Any] = Counter()
        before: float | None = None  # when the first work was given: that workers start is no evaluation's time
        while missing:
            self._staff()
            while waiting and self._idle:
                self._give(self._idle.popleft(), waiting.popleft())
                before = before or time.monotonic()
            for event in self.pool.events():
                answers = [*event.answers, *self._settled(event, waiting, losses)]
                for schedule, answer in answers:
                    if schedule not in missing:  # of an earlier call that was abandoned
                        continue
                    del missing[schedule]
                    now = time.monotonic()
                    timings = {**answer.timings, "worker": answer.seconds}
                    seconds, before = now - (before or now), now
                    yield schedule, replace(answer, seconds=seconds, timings=timings)

    def _staff(self) -> None:
        """Start workers up to the number wanted."""
        while len(self._idle) + len(self._held) + len(self._starting) < self.count:
            self._starting.add(self.pool.start())

    def _give(self, worker: int, schedules: list[Any]) -> None:
        self._held[worker] = schedules
        self.pool.give(worker, schedules)

    def _settled(
        self, event: WorkerEvent, waiting: deque[list[Any]], losses: Counter[Any]
    ) -> list[tuple[Any, EvaluationResult]]:
        """Note who is idle or lost; the failures of schedules that have lost too many workers."""
        answered = {schedule for schedule, _ in event.answers}
        held = [schedule for schedule in self._held.get(event.worker, ()) if schedule not in answered]
        if event.worker in self._held:
            self._held[event.worker] = held
        if event.idle:
            if held:
                raise RuntimeError(f"the evaluator left {len(held)} schedules unanswered, the first is {held[0]}")
            self._unstarted = 0
            self._forget(event.worker)
            self._idle.append(event.worker)
        elif event.lost is not None:
            if event.worker in self._starting:
                self._count_unstarted(event.lost)
            self._forget(event.worker)
            return self._reassigned(held, event.lost, waiting, losses)
        return []

    def _forget(self, worker: int) -> None:
        self._held.pop(worker, None)
        self._starting.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)

    def _count_unstarted(self, why: str) -> None:
        self._unstarted += 1
        if self._unstarted >= _TRIES:
            raise MeasurementError(f"{self._unstarted} workers one after the other could not start: {why}")

    def _reassigned(
        self, held: list[Any], why: str, waiting: deque[list[Any]], losses: Counter[Any]
    ) -> list[tuple[Any, EvaluationResult]]:
        """Put back what a lost worker had, each schedule alone now, so that it is seen which one is fatal."""
        losses.update(held)
        fatal = [schedule for schedule in held if losses[schedule] >= _TRIES and len(held) == 1]
        back = [schedule for schedule in held if schedule not in fatal]
        _log.warning("a worker is lost (%s); %d schedules go to another", why, len(back))
        waiting.extendleft([schedule] for schedule in reversed(back))
        failure = f"{_TRIES} workers were lost over this schedule, the last one: {why}"
        return [(schedule, EvaluationResult(None, 0.0, failure)) for schedule in fatal]

    def close(self) -> None:
        """End all workers."""
        self.pool.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Forked processes would share the locks of torch's threads, in whatever state those are.
_SPAWN = multiprocessing.get_context("spawn")

_PATIENCE = 1.0
"""Seconds that a worker is given to end by itself."""


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: Connection[Any, Any]


@dataclass
class Processes:
    """A pool of processes, as ``WorkerPool`` says.

    A killed parent's workers end by themselves after the evaluation that they are at: their pipe is closed. Ctrl-C
    is the parent's to hear, which then ends them.

    Args:
        make: Called once in each.
    """

    make: MakeEvaluate
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _started: int = field(default=0, init=False)

    def start(self) -> int:
        """As ``WorkerPool``."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs, self.make), daemon=True, name="fgvc-kit worker")
        with _no_interrupt():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self._started += 1
        self._workers[self._started] = _Worker(process, ours)
        return self._started

    def give(self, worker: int, schedules: Sequence[Any]) -> None:
        """As ``WorkerPool``; to a worker that has just died nothing can be given, which is heard of as its loss."""
        try:
            self._workers[worker].pipe.send(list(schedules))
        except OSError:
            return

    def events(self) -> Iterator[WorkerEvent]:
        """As ``WorkerPool``.

        Raises:
            MeasurementError: An evaluator could not be made, for a reason that the user can put right.
            RuntimeError: An evaluator failed otherwise, with its traceback.
        """
        ready = wait([worker.pipe for worker in self._workers.values()])
        for number in [number for number, worker in self._workers.items() if worker.pipe in ready]:
            yield self._heard(number)

    def _heard(self, number: int) -> WorkerEvent:
        process, pipe = self._workers[number]
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError):
            del self._workers[number]
            pipe.close()
            process.join()
            return WorkerEvent(number, lost=_end(process.exitcode))
        if kind == "refused":
            raise MeasurementError(f"a worker cannot work: {content}")
        if kind == "bug":
            raise RuntimeError(f"an evaluator failed in a worker:\n{content}")
        return WorkerEvent(number, idle=True) if kind == "idle" else WorkerEvent(number, [content])

    def close(self) -> None:
        """As ``WorkerPool``."""
        for worker in self._workers.values():
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._workers.clear()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """What is started in here never hears Ctrl-C; this process hears it afterwards."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"it was ended by signal {-exitcode}; is there memory enough for so many workers?"
    return f"it ended with exit code {exitcode}"


def _work(pipe: Connection[Any, Any], make: MakeEvaluate) -> None:
    """A worker's life: make the evaluator, then answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _answer_all(pipe, make)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone, or wants nothing more


def _answer_all(pipe: Connection[Any, Any], make: MakeEvaluate) -> None:
    try:
        evaluate = make()
        while True:
            pipe.send(("idle", None))
            for pair in evaluate(pipe.recv()):
                pipe.send(("answer", pair))
    except TavtError as error:
        pipe.send(("refused", str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception:
        pipe.send(("bug", traceback.format_exc()))

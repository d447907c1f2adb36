"""Work shared out among worker processes: answers stream back, what a lost worker had goes to another.

A pool of ``concurrent.futures`` breaks as a whole where one process dies, and does not say over which schedule.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, TypeVar

from tavt_kit.errors import MeasurementError, TavtError
from tavt_kit.evaluation.result import EvaluationResult

Task = TypeVar("Task", bound=Hashable)
"""What a worker is given: a schedule, or a schedule with the images to look at; it can be pickled."""

MakeEvaluate = Callable[[], Callable[[Sequence[Any]], Iterable[tuple[Any, EvaluationResult]]]]
"""Makes an evaluator of tasks where it is called: pickled and sent to each worker, which calls it once."""

_TRIES = 3  # workers that one schedule may lose before it counts as failed; as many in turn may fail to start
_PATIENCE = 1.0  # seconds that a worker is given to end by itself
_SPAWN = multiprocessing.get_context("spawn")  # forks would share the locks of torch's threads, in whatever state
_log = logging.getLogger(__name__)


class WorkerEvent(NamedTuple):
    """What is heard of a worker, by a number that is never given again: answers, that it waits for work, or (as a
    clause) why it is ``lost`` and will never answer again.
    """

    worker: int
    answers: Sequence[tuple[Any, EvaluationResult]] = ()
    idle: bool = False
    lost: str | None = None


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: Connection[Any, Any]


@dataclass
class Workers(AbstractContextManager["Workers"]):
    """An evaluator out of processes, as ``Evaluate`` says, whose answers do not hang on who gives them; to be closed.

    A killed parent's workers end by themselves after the evaluation that they are at: their pipe is closed. Ctrl-C
    is the parent's to hear, which then ends them.

    Args:
        at_once: Neighbours among the schedules that are given to a worker at a time; ``None``, where an evaluator
            gains from seeing several, for half of each worker's equal share.
    """

    make: MakeEvaluate
    count: int
    at_once: int | None = 1
    started: int = field(default=0, init=False)
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _held: dict[int, list[Any]] = field(default_factory=dict, init=False)
    """What each living worker has been given and has not answered."""
    _idle: deque[int] = field(default_factory=deque, init=False)
    _starting: set[int] = field(default_factory=set, init=False)
    _unstarted: int = field(default=0, init=False)
    _payload: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        if self.count < 1 or (self.at_once is not None and self.at_once < 1):
            raise ValueError(f"at least one worker and one schedule, got {self.count} and {self.at_once}")
        self._payload = pickle.dumps(self.make)

    def __call__(self, schedules: Sequence[Task]) -> Generator[tuple[Task, EvaluationResult]]:
        """Answers in the order in which they come; their seconds add up to the time that passes here."""
        missing = dict.fromkeys(schedules)
        size = self.at_once or max(1, -(-len(schedules) // (2 * self.count)))
        waiting = deque(list(schedules[start : start + size]) for start in range(0, len(schedules), size))
        losses: Counter[Any] = Counter()
        before: float | None = None  # when the first work was given: that workers start is no evaluation's time
        while missing:
            while len(self._held) < self.count:
                self.started += 1
                self._starting.add(self.started)
                self._held[self.started] = []
                self.start(self.started)
            while waiting and self._idle:
                worker = self._idle.popleft()
                self._held[worker] = waiting.popleft()
                self.give(worker, self._held[worker])
                before = before or time.monotonic()
            for event in self.events():
                for schedule, answer in [*event.answers, *self._settled(event, waiting, losses)]:
                    if schedule not in missing:  # of an earlier call that was abandoned
                        continue
                    del missing[schedule]
                    now = time.monotonic()
                    timings = {**answer.timings, "worker": answer.seconds}
                    seconds, before = now - (before or now), now
                    yield schedule, replace(answer, seconds=seconds, timings=timings)

    def _settled(
        self, event: WorkerEvent, waiting: deque[list[Any]], losses: Counter[Any]
    ) -> list[tuple[Any, EvaluationResult]]:
        """Note what is heard; the failure of a schedule that has lost too many workers.

        What a lost worker had is put back, each schedule alone, so that it is seen which one is fatal.
        """
        worker, answered = event.worker, {schedule for schedule, _ in event.answers}
        held = self._held[worker] = [schedule for schedule in self._held[worker] if schedule not in answered]
        if event.idle:
            if held:
                raise RuntimeError(f"the evaluator left {len(held)} schedules unanswered, the first is {held[0]}")
            self._unstarted = 0
            self._starting.discard(worker)
            self._idle.append(worker)
        if event.lost is None:
            return []
        del self._held[worker]
        if worker in self._idle:
            self._idle.remove(worker)
        if worker in self._starting:
            self._starting.remove(worker)
            self._unstarted += 1
            if self._unstarted >= _TRIES:
                raise MeasurementError(f"{self._unstarted} workers one after the other could not start: {event.lost}")
        losses.update(held)
        fatal = [schedule for schedule in held if losses[schedule] >= _TRIES and len(held) == 1]
        back = [] if fatal else held
        _log.warning("a worker is lost (%s); %d schedules go to another", event.lost, len(back))
        waiting.extendleft([schedule] for schedule in reversed(back))
        failure = f"{_TRIES} workers were lost over this schedule, the last one: {event.lost}"
        return [(schedule, EvaluationResult(None, 0.0, failure)) for schedule in fatal]

    def start(self, number: int) -> None:
        """Begin to start a worker, which is heard of when it waits for work, or is lost."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs,), daemon=True, name="fgvc-kit worker")
        masks = hasattr(signal, "pthread_sigmask")  # what is started under the mask never hears Ctrl-C
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
        try:
            process.start()
        finally:
            if masks:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the process is the end of the pipe
        self._workers[number] = _Worker(process, ours)

    def give(self, worker: int, schedules: Sequence[Any]) -> None:
        """Give work to a worker that waits for it; one that has just died is heard of as lost."""
        with suppress(OSError):
            self._workers[worker].pipe.send(list(schedules))

    def events(self) -> Iterator[WorkerEvent]:
        """Wait until something is heard.

        Raises:
            MeasurementError: No worker can work, for a reason that the user can put right.
            RuntimeError: An evaluator failed otherwise, a bug; with its traceback.
        """
        ready = wait([worker.pipe for worker in self._workers.values()])
        for number, (process, pipe) in list(self._workers.items()):
            if pipe not in ready:
                continue
            try:
                kind, content = pipe.recv()
            except (EOFError, OSError):
                del self._workers[number]
                process.join()
                pipe.close()
                code = process.exitcode
                ended = f"it ended with exit code {code}"
                if code is not None and code < 0:
                    ended = f"it was ended by signal {-code}; is there memory enough for so many workers?"
                yield WorkerEvent(number, lost=ended)
                continue
            if kind == "refused":
                raise MeasurementError(f"a worker cannot work: {content}")
            if kind == "bug":
                raise RuntimeError(f"an evaluator failed in a worker:\n{content}")
            if kind == "here":
                # Only now: what is written to a process that dies before it has read it would be waited for for ever.
                with suppress(OSError):
                    pipe.send_bytes(self._payload)
                continue
            yield WorkerEvent(number, idle=True) if kind == "idle" else WorkerEvent(number, [content])

    def __exit__(self, *error: object) -> None:
        """End all workers, whatever they do."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()


_GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # the parent is gone, or wants nothing more


def _work(pipe: Connection[Any, Any]) -> None:
    """A worker's life: make the evaluator, then answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(*_GONE):
        try:
            pipe.send(("here", None))
            make: MakeEvaluate = pickle.loads(pipe.recv_bytes())  # of this program, through a pipe of its own
            evaluate = make()
            while True:
                pipe.send(("idle", None))
                for pair in evaluate(pipe.recv()):
                    pipe.send(("answer", pair))
        except _GONE:
            raise
        except TavtError as error:
            pipe.send(("refused", str(error)))
        except Exception:
            pipe.send(("bug", traceback.format_exc()))

"""Workers that are processes of this machine, each joined to this one by a pipe."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from tavt_kit.errors import MeasurementError, TavtError
from tavt_kit.search.engines.crew import MakeEvaluate, News

__all__ = ["Processes"]

# Forked processes would share the locks of torch's threads, in whatever state those are.
_SPAWN = multiprocessing.get_context("spawn")

_PATIENCE = 1.0
"""Seconds that a worker is given to end by itself."""


class _Worker(NamedTuple):
    process: SpawnProcess
    pipe: Connection[Any, Any]


@dataclass
class Processes:
    """A crew of processes, as ``Crew`` says.

    A killed parent's workers end by themselves after the evaluation that they are at: their pipe is closed. Ctrl-C
    is the parent's to hear, which then ends them.

    Args:
        make: Called once in each.
    """

    make: MakeEvaluate
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _started: int = field(default=0, init=False)

    def start(self) -> int:
        """As ``Crew``."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(theirs, self.make), daemon=True, name="fgvc-kit worker")
        with _no_interrupt():
            process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self._started += 1
        self._workers[self._started] = _Worker(process, ours)
        return self._started

    def give(self, worker: int, schedules: Sequence[Any]) -> None:
        """As ``Crew``; to a worker that has just died nothing can be given, which is heard of as its loss."""
        try:
            self._workers[worker].pipe.send(list(schedules))
        except OSError:
            return

    def news(self) -> Iterator[News]:
        """As ``Crew``.

        Raises:
            MeasurementError: An evaluator could not be made, for a reason that the user can put right.
            RuntimeError: An evaluator failed otherwise, with its traceback.
        """
        ready = wait([worker.pipe for worker in self._workers.values()])
        for number in [number for number, worker in self._workers.items() if worker.pipe in ready]:
            yield self._heard(number)

    def _heard(self, number: int) -> News:
        process, pipe = self._workers[number]
        try:
            kind, content = pipe.recv()
        except (EOFError, OSError):
            del self._workers[number]
            pipe.close()
            process.join()
            return News(number, lost=_end(process.exitcode))
        if kind == "refused":
            raise MeasurementError(f"a worker cannot work: {content}")
        if kind == "bug":
            raise RuntimeError(f"an evaluator failed in a worker:\n{content}")
        return News(number, idle=True) if kind == "idle" else News(number, [content])

    def close(self) -> None:
        """As ``Crew``."""
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

"""The loop: update after update, watched, logged, evaluated, saved, and continued to the bit.

Every random draw of an update (which images, how they are changed, which sub-networks, dropout) is a function of the
seed and the update's number. So a run that is killed and continued makes the very updates of one that never stopped.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from tavt_kit.core.progress import Progress
from tavt_kit.distill.checkpointing import drop_other_best, load_best, save_best
from tavt_kit.distill.datasets import Batch, ImageSplit, stream
from tavt_kit.distill.metrics import Journal
from tavt_kit.distill.optimisation import OptimizerOptions
from tavt_kit.distill.processes import Processes
from tavt_kit.distill.running import TrainingOptions
from tavt_kit.distill.selection import SelectionMetric
from tavt_kit.distill.trainer import Engine, Step
from tavt_kit.models.wrap import AdaptiveViT

SAVE_SECONDS = 60.0
_SHOWN = ("loss", "images_per_second")
"""Beside the newest evaluation, to whoever watches."""


@dataclass(frozen=True, slots=True)
class Judge:
    """How the weights of a run are compared.

    Args:
        metric: What is compared.
        value: Its value of a model, on ``val``.
    """

    metric: SelectionMetric
    value: Callable[[AdaptiveViT], float]


@dataclass(frozen=True, slots=True)
class Selected:
    """The best evaluation of a run: its weights are the run's.

    Args:
        metric: Compared.
        value: Its best value, on ``val``.
        step: Of the update after which it was reached.
    """

    metric: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class Loop:
    """What a finished loop says of itself.

    Args:
        steps: Updates that were made; fewer than asked for if patience ran out.
        seconds: In all, those of interrupted processes included; without evaluations and waiting for images.
        seconds_per_step: Of the steps of this process, the first left out; ``None`` if it made too few.
        loss: Mean of the last tenth of this process' steps; ``None`` if it made none.
        selected: The evaluation whose weights were taken; ``None`` if nothing was evaluated on the way.
    """

    steps: int
    seconds: float
    seconds_per_step: float | None
    loss: float | None
    selected: Selected | None = None


def run_loop(
    model: AdaptiveViT,
    split: ImageSplit,
    step: Step,
    settings: OptimizerOptions,
    running: TrainingOptions,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    what: str,
    judge: Judge | None = None,
    processes: Processes | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Loop:
    """Train, from where ``folder`` says an earlier process was, to the end.

    Args:
        model: Trained in place, on its device; what must not be trained is frozen already. It ends with the weights of
            the best evaluation, else with the averaged ones, else with the last.
        split: The training split.
        step: Computes gradients and values.
        settings: With nothing left open (``OptimizerOptions.settled``).
        running: With nothing left open.
        folder: Gets ``metrics.jsonl``, ``tensorboard/`` and ``state/``; with several processes on several machines,
            all of them see it.
        seed: Of everything random.
        progress: Watches.
        what: Name of the stage.
        judge: Needed where ``running`` asks for evaluations.
        processes: This one alone by default.
        save_seconds: Time between two saved states.

    Raises:
        TrainingError: A loss or gradient is not finite (the step and its images are named), memory ran out, or the
            batch cannot be divided.
        KeyboardInterrupt: Asked for by Ctrl-C; the state was saved.
    """
    processes = processes or Processes(0, 1, next(model.parameters()).device)
    engine = Engine(model, split, step, settings, running, seed=seed, processes=processes)
    return _Run(engine, Path(folder), judge, save_seconds).go(progress, what)


class _Run:
    """The engine with what surrounds it."""

    def __init__(self, engine: Engine, folder: Path, judge: Judge | None, save_seconds: float) -> None:
        assert judge is not None or engine.running.evaluate_every is None
        self.engine, self.folder, self.judge, self.save_seconds = engine, folder, judge, save_seconds
        self.processes, self.total = engine.processes, engine.settings.steps
        self.saved = 0
        self.shown: dict[str, float] = {}
        self.durations: list[float] = []
        self.losses: list[float] = []

    def go(self, progress: Progress, what: str) -> Loop:
        """All that is left to do."""
        engine, processes = self.engine, self.processes
        done = number = self.saved = engine.resume(self.folder)
        progress.stage(what, self.total, done)
        batches = stream(
            engine.split, engine.settings, seed=engine.seed, first=done + 1, last=self.total,
            rank=processes.rank, world=processes.count,
        )  # fmt: skip
        with Interruption() as interruption, closing(batches), ExitStack() as stack:
            journal = stack.enter_context(Journal(self.folder, done)) if processes.first else None
            last_save = time.monotonic()
            while number < self.total and not engine.selection.exhausted:
                number += 1
                values = self._update(number, batches)
                best = self._evaluate(number, values)
                if journal is not None:
                    journal.write(values)
                self.shown |= {name: values[name] for name in values if name in _SHOWN or name.startswith("val_")}
                progress.advance(1, **self.shown)
                due = processes.first and time.monotonic() - last_save >= self.save_seconds
                asked, due = processes.any(interruption.asked, due)
                if asked or due or best:
                    self._save(number)
                    last_save = time.monotonic()
                if asked:
                    raise KeyboardInterrupt
            if number > self.saved:
                self._save(number)
        self._settle()
        return self._summary(number)

    def _update(self, number: int, batches: Iterator[Batch]) -> dict[str, float]:
        before = self.engine.seconds
        values = self.engine.update(number, batches)
        self.durations.append(self.engine.seconds - before)
        self.losses.append(values["loss"])
        return values

    def _evaluate(self, number: int, values: dict[str, float]) -> bool:
        """Where an evaluation is due, add it to the values of the step; whether it is the best so far."""
        every, engine, judge = self.engine.running.evaluate_every, self.engine, self.judge
        if every is None or judge is None or (number % every and number != self.total):
            return False
        found = self.processes.once(lambda: judge.value(engine.average))
        values[f"val_{judge.metric.name}"] = found
        best = engine.selection.see(judge.metric, found, number)
        if best and self.processes.first:
            save_best(self.folder, number, engine.average.state_dict())
        return best

    def _save(self, number: int) -> None:
        self.engine.save(self.folder, number)
        self.saved = number
        if self.processes.first:
            drop_other_best(self.folder, self.engine.selection.step)

    def _settle(self) -> None:
        """Give the model the weights that the run ends with."""
        engine = self.engine
        if engine.selection.value is not None:
            engine.model.load_state_dict(load_best(self.folder, engine.selection.step), strict=True)
        elif engine.average is not engine.model:
            engine.model.load_state_dict(engine.average.state_dict(), strict=True)
        engine.model.eval()

    def _summary(self, number: int) -> Loop:
        warm = sorted(self.durations[1:])
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        best, judge = self.engine.selection, self.judge
        return Loop(
            number,
            self.engine.seconds,
            warm[len(warm) // 2] if warm else None,
            sum(tail) / len(tail) if tail else None,
            None if best.value is None or judge is None else Selected(judge.metric.name, best.value, best.step),
        )


class Interruption:
    """While entered, the first SIGINT or SIGTERM is only noted; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

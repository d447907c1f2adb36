"""The training loop: updates, evaluated, logged, saved, and continued to the bit.

Every random draw of an update (which images, how they are changed, which sub-networks, dropout) is a function of the
seed and the update's number. So a run that is killed and continued makes the very updates of one that never stopped.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.core.progress import Progress
from tavt_kit.distill.datasets import Batch, ImageSplit, stream
from tavt_kit.distill.optimizer import make_optimiser, set_rate
from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.processes import Processes, autocast, dtype_of, loss_scaler
from tavt_kit.distill.run_folder import (
    Journal,
    drop_other_best,
    load_best,
    load_state,
    random_state,
    readable,
    save_best,
    save_state,
    set_random_state,
    state_file,
)
from tavt_kit.distill.sandwich import training_attention
from tavt_kit.errors import MeasurementError, TrainingError, UnknownName
from tavt_kit.evaluation.metrics import METRICS as CATALOGUE
from tavt_kit.evaluation.metrics import Predictions, find_metric
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes.out_of_memory import free_memory, is_out_of_memory

METRICS = tuple(name for name, metric in CATALOGUE.items() if metric.needs != "dense")
"""What weights can be selected by: one model's logits are all there is."""


@dataclass(frozen=True, slots=True)
class SelectionMetric:
    """A metric of the catalogue, of these classes.

    Args:
        name: One of ``METRICS``; ``recall[CLASS]`` with a class. ``loss`` is the mean cross-entropy in nats.
        classes: Names in the order of the logits.

    Raises:
        TrainingError: Another metric, or the recall of a class that is not there.

    Example:
        >>> SelectionMetric("recall[b]", ("a", "b")).of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
        0.5
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            metric, wanted = find_metric(self.name)
        except UnknownName:
            metric, wanted = None, None
        if metric is None or metric.name not in METRICS or self.name == metric.recorded:
            raise TrainingError(f"the metric must be one of {', '.join(METRICS)}, got {self.name!r}")
        if wanted is not None and wanted not in self.classes:
            raise TrainingError(f"{self.name} names no class of the data: {_first(self.classes)}")

    def better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better; of equals neither is."""
        return find_metric(self.name)[0].better(one, other)

    def of(self, logits: Tensor, labels: NDArray[np.int64]) -> float:
        """The value on images.

        Args:
            logits: (n, classes) on the CPU.
            labels: (n,)

        Raises:
            MeasurementError: Logits that are not finite, or a class without images.
        """
        if not bool(torch.isfinite(logits).all()):
            raise MeasurementError(f"the logits are not finite, so there is no {self.name}")
        metric, wanted = find_metric(self.name)
        index = None if wanted is None else self.classes.index(wanted)
        value = metric.of(Predictions(logits.numpy(), labels, index))
        if math.isnan(value):
            raise MeasurementError(f"val has no image of the class that {self.name} names")
        return value


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


@dataclass(slots=True)
class Selection:
    """The best evaluation so far, and how many came after it.

    Args:
        patience: Evaluations without a better one that are allowed; ``None`` for any number.
        value: The best one's; ``None`` before the first.
        step: Its update.
        waited: Evaluations since.
    """

    patience: int | None = None
    value: float | None = None
    step: int = 0
    waited: int = 0

    def see(self, metric: SelectionMetric, value: float, step: int) -> bool:
        """Take an evaluation in; whether it is the best so far. Of equals the first stays."""
        if not math.isfinite(value):
            raise MeasurementError(f"the {metric.name} of step {step} is {value}, so nothing can be selected by it")
        if self.value is None or metric.better(value, self.value):
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.patience is not None and self.waited >= self.patience

    def as_state(self) -> dict[str, Any]:
        """For the state of a run."""
        return {key: value for key, value in asdict(self).items() if key != "patience"}

    def restore(self, state: dict[str, Any]) -> None:
        """From ``as_state``."""
        self.value, self.step, self.waited = state["value"], int(state["step"]), int(state["waited"])


_LEAST_SCALE = 1.0
"""Gradients that overflow float16 without any scaling of the loss are not finite in earnest."""


class Engine:
    """Moves a model, update by update; everything random in an update is a function of the seed and its number.

    Args:
        model: On the device of ``processes``; what must not be trained is frozen already.
        split: The training split; for messages.
        step: Computes gradients and values.
        settings: Of the optimisation, with nothing left open.
        running: With nothing left open.
        seed: Of everything random.
        processes: That share the work.

    Raises:
        TrainingError: The batch cannot be divided, or nothing trains.
    """

    def __init__(
        self,
        model: AdaptiveViT,
        split: ImageSplit,
        step: Step,
        settings: OptimizerOptions,
        running: TrainingOptions,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        assert running.precision is not None  # what settled means
        running.check_split(settings.batch, processes.count)
        self.model, self.split = model, split
        self.settings, self.running, self.seed, self.processes = settings, running, seed, processes
        self.rate = settings.learning_rate()
        self.optimiser = make_optimiser(model, settings)
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.device = processes.device
        self.scaler = loss_scaler(running.precision, self.device)
        processes.share_weights(model)
        self.ema = None if running.ema is None else timm.utils.ModelEmaV3(model, decay=running.ema, use_warmup=True)
        self.selection = Selection(running.patience)
        self.gradients = Gradients(model, step, running, self.scaler, seed=seed, processes=processes)
        self.seconds = 0.0

    @property
    def average(self) -> AdaptiveViT:
        """The network whose weights are evaluated and written: the averaged one, or the model itself without one."""
        return self.model if self.ema is None else self.ema.module

    # ----------------------------------------------------------------------------------------- states

    def resume(self, folder: Path) -> int:
        """Take up the newest state in ``folder``; how many updates are done.

        Raises:
            CheckpointError: The state is damaged, or belongs to another model or optimiser.
        """
        content = load_state(folder)
        if content is None:
            return 0
        with readable(state_file(folder, content["step"])):
            self.model.load_state_dict(content["model"], strict=True)
            self.optimiser.load_state_dict(content["optimiser"])
            self.scaler.load_state_dict(content["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(content["ema"], strict=True)
            self.selection.restore(content["best"])
            self.seconds = float(content["seconds"])
            if self.settings.batch // self.processes.count % content["parts"] == 0:  # there may be other processes now
                self.gradients.parts = int(content["parts"])
            if self.processes.rank < len(content["random"]):
                set_random_state(content["random"][self.processes.rank], self.device)
        return int(content["step"])

    def save(self, folder: Path, number: int) -> None:
        """Write a state after update ``number``; called in all processes, written by the first.

        The number is also the position of the learning rate's schedule and of the order of the images, which are
        functions of it.
        """
        randoms = self.processes.gather(random_state(self.device))
        if not self.processes.first:
            return
        content: dict[str, Any] = {
            "step": number,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "best": self.selection.as_state(),
            "parts": self.gradients.parts,
            "random": randoms,
        }
        save_state(folder, content, keep=self.running.keep)

    # ----------------------------------------------------------------------------------------- an update

    def update(self, number: int, batches: Iterator[Batch]) -> dict[str, float]:
        """One update, with the next batch; its values for the log, means over all images of the batch.

        Raises:
            TrainingError: The loss or a gradient is not finite (the images are named), or memory ran out.
        """
        start = time.perf_counter()
        batch, mine, waited = self.processes.together(lambda: self._own_share(number, batches))
        for parameter in self.trained:
            # A layer that layer dropout left out has a gradient of 0, not none: its momentum goes on, as officially.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.average([p.grad for p in self.trained if p.grad is not None])
        self.processes.average(list(_running_statistics(self.model)))
        values = self.processes.mean(mine)
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip or math.inf).item()
        self._check_finite(mine["loss"], values["loss"], norm, number, batch)
        rate = self.rate.at(number)
        set_rate(self.optimiser, rate)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=number)
        duration = time.perf_counter() - start - waited
        self.seconds += duration
        # Gradients that overflowed were not applied, and have no norm.
        known = {"gradient_norm": norm} if math.isfinite(norm) else {}
        if self.scaler.is_enabled():
            known["loss_scale"] = self.scaler.get_scale()
        known["images_per_second"] = round(self.settings.batch / duration, 2)
        return {"step": number, **values, "lr": rate, **known, "seconds_waiting": round(waited, 4)}

    def _own_share(self, number: int, batches: Iterator[Batch]) -> tuple[Batch, dict[str, float], float]:
        """This process' part of the batch, the values it gave, and the seconds it was waited for."""
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        return batch, self.gradients(batch, number), waited

    def _check_finite(self, mine: float, loss: float, norm: float, number: int, batch: Batch) -> None:
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() > _LEAST_SCALE
        if math.isfinite(loss) and (math.isfinite(norm) or overflow):
            return
        # Of several processes, those whose own loss is the trouble; all of them where it is the gradient.
        culprit = math.isfinite(loss) or not math.isfinite(mine)
        own = [self.split.names[place] for place in batch.places] if culprit else []
        names = [name for several in self.processes.gather(own) for name in several]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        raise TrainingError(
            f"training diverged at step {number} ({what}) on the images {', '.join(names[:4])}{more}; start again "
            "(`fresh`) with a smaller `lr`, a longer `warmup` or `precision` f32"
        )


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    """Means and variances that each process updates by its own share of a batch."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    yield statistic


Backward = Callable[[Tensor], None]
"""Differentiates a 0-d term of the loss."""

Step = Callable[[Batch, np.random.Generator, Backward], Mapping[str, Tensor]]
"""Calls ``Backward`` with every term of the loss, each as soon as it is known, and gives named 0-d values to be logged,
``loss`` among them. The draws are the same for all micro-batches and processes of an update."""

log = logging.getLogger(__name__)


class Gradients:
    """Runs a step over the parts of a batch.

    Args:
        model: Where the gradients are left.
        step: Differentiates.
        running: Precision, parts, and what is done where memory runs out.
        scaler: Of the loss.
        seed: Of the draws.
        processes: This one's device and rank; dropout differs by rank.
    """

    def __init__(
        self,
        model: AdaptiveViT,
        step: Step,
        running: TrainingOptions,
        scaler: torch.amp.GradScaler,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        self.model, self.step, self.running, self.scaler = model, step, running, scaler
        self.seed, self.processes = seed, processes
        self.precision = str(running.precision)
        self.dtype = next(model.parameters()).dtype
        self.parts = running.accumulation

    def __call__(self, batch: Batch, number: int) -> dict[str, float]:
        """Leave the gradients of the batch's mean on the parameters; the step's values, means over the parts.

        Raises:
            TrainingError: Memory ran out, and fewer images at once are not allowed, or do not fit either.
        """
        values, parts = fitting(
            lambda parts: self._accumulate(batch, number, parts),
            len(batch.places),
            self.parts,
            cleanup=lambda: self.model.zero_grad(set_to_none=True),
        )
        if parts != self.parts:
            self._fewer_at_once(len(batch.places), parts, number)
        return values

    def _fewer_at_once(self, size: int, parts: int, number: int) -> None:
        """Memory ran out: go on with smaller parts, if that is allowed."""
        said = (
            f"memory ran out at step {number} with {size // self.parts} images at once, and suffices for "
            f"{size // parts}"
        )
        if not self.running.allow_smaller_batch:
            raise TrainingError(
                f"{said}: give `allow_smaller_batch` to compute so many at once (an update stays as it is), or start "
                f"again with a smaller `batch`"
            )
        log.warning("%s: so many are computed at once from here on", said)
        self.parts = parts

    def _accumulate(self, batch: Batch, number: int, parts: int) -> dict[str, float]:
        """Gradients of the mean over all parts."""
        sums: dict[str, float] = {}
        seed = [self.seed, 3, number, self.processes.rank]
        devices = [self.processes.device] if self.processes.device.type == "cuda" else []
        self.model.train()
        # One autocast context for all passes of the step, so that each weight is converted once.
        with (
            torch.random.fork_rng(devices=devices),
            autocast(self.precision, self.processes.device),
            training_attention(self.model.tokens, self.processes.device, dtype_of(self.precision)),
        ):
            # Dropout reads torch's own stream, which is put back afterwards.
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
            for part in _parts(batch, parts):
                draws = np.random.default_rng([self.seed, 2, number])
                found = self.step(self._on_device(part), draws, lambda term: self._backward(term, parts))
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value.item() / parts
        return sums

    def _backward(self, term: Tensor, parts: int) -> None:
        torch.autograd.backward(self.scaler.scale(term if parts == 1 else term / parts))

    def _on_device(self, part: Batch) -> Batch:
        # A model in float64 takes its images so.
        images = part.images.to(self.processes.device, self.dtype)
        soft = None if part.soft is None else part.soft.to(self.processes.device)
        return replace(part, images=images, labels=part.labels.to(self.processes.device), soft=soft)


def _parts(batch: Batch, parts: int) -> Iterator[Batch]:
    """Equal shares of a batch, in order."""
    if parts == 1:
        yield batch
        return
    size = len(batch.places) // parts
    for start in range(0, size * parts, size):
        share = slice(start, start + size)
        soft = None if batch.soft is None else batch.soft[share]
        images, labels, places = batch.images[share], batch.labels[share], batch.places[share]
        yield replace(batch, images=images, labels=labels, soft=soft, places=places)


T = TypeVar("T")


def fitting(attempt: Callable[[int], T], size: int, parts: int, *, cleanup: Callable[[], None]) -> tuple[T, int]:
    """Call ``attempt`` with more and more parts until its memory suffices.

    Args:
        attempt: Given a number of equal parts that ``size`` images are cut into; it may run out of memory.
        size: Images.
        parts: To begin with.
        cleanup: Frees what a failed attempt left.

    Returns:
        Its answer, and the parts it took.

    Raises:
        TrainingError: Not even single images fit.
    """
    while True:
        try:
            return attempt(parts), parts
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback holds on to the tensors of the attempt.
        cleanup()
        free_memory()
        parts = _more(size, parts)


def _more(size: int, parts: int) -> int:
    """At least twice as many parts, all equal."""
    if parts >= size:
        raise TrainingError(
            "not even one image at a time fits into the memory; choose a smaller `image_size` or model, or train "
            "fewer of its layers"
        )
    return next(more for more in range(min(2 * parts, size), size + 1) if size % more == 0)


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

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.core.progress import Progress
from tavt_kit.distill.datasets import Batch, ImageSplit, stream
from tavt_kit.distill.losses import Step
from tavt_kit.distill.optimizer import make_optimiser, set_rate
from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.processes import Processes, autocast, dtype_of, loss_scaler
from tavt_kit.distill.run_folder import (
    drop_other_best,
    journal,
    load_state,
    readable,
    save_state,
    state_file,
    write_state,
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
    """A metric of the catalogue, one of ``METRICS``, of classes in the order of the logits.

    Raises:
        TrainingError: Another metric, or the recall of a class that is not there.

    Example:
        >>> SelectionMetric("recall[b]", ("a", "b")).of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
        0.5
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = TrainingError(f"the metric must be one of {', '.join(METRICS)}, got {self.name!r}")
        try:
            metric, wanted = find_metric(self.name)
        except UnknownName:
            raise unknown from None
        if metric.name not in METRICS or self.name == metric.recorded:
            raise unknown
        if wanted is not None and wanted not in self.classes:
            some = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
            raise TrainingError(f"{self.name} names no class of the data: {some}")

    def better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better; of equals neither is."""
        return find_metric(self.name)[0].better(one, other)

    def of(self, logits: Tensor, labels: NDArray[np.int64]) -> float:
        """The value of logits (n, classes) on the CPU and labels (n,).

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


@dataclass(slots=True)
class Selection:
    """The best evaluation so far, its update, and how many came after it, of which patience allows so many."""

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


SAVE_SECONDS = 60.0
_SHOWN = ("loss", "images_per_second")
"""Beside the newest evaluation, to whoever watches."""
_LEAST_SCALE = 1.0
"""Gradients that overflow float16 without any scaling of the loss are not finite in earnest."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judge:
    """How the weights of a run are compared: a metric, and its value of a model on ``val``."""

    metric: SelectionMetric
    value: Callable[[AdaptiveViT], float]


@dataclass(frozen=True, slots=True)
class Selected:
    """The best evaluation of a run, on ``val``, and the update that reached it: its weights are the run's."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class Loop:
    """What a finished loop says of itself.

    Args:
        steps: Updates that were made; fewer than asked for if patience ran out.
        seconds: Time of all updates, those of interrupted processes included; without evaluations and waiting.
        seconds_per_step: Median of this process' steps, the first left out; ``None`` if it made too few.
        loss: Mean of the last tenth of this process' steps; ``None`` if it made none.
        selected: Evaluation whose weights were taken; ``None`` if nothing was evaluated on the way.
    """

    steps: int
    seconds: float
    seconds_per_step: float | None
    loss: float | None
    selected: Selected | None = None

    def as_record(self, batch: int) -> dict[str, Any]:
        """JSON-ready, with the speed people ask for."""
        speed = None if self.seconds_per_step is None else batch / self.seconds_per_step
        return {**asdict(self), "images_per_second": speed}


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
        settings: Optimisation, with nothing left open (``OptimizerOptions.settled``); so is ``running``.
        folder: Gets ``metrics.jsonl`` and ``state/``; with several processes on several machines,
            all of them see it.
        judge: Needed where ``running`` asks for evaluations.

    Raises:
        TrainingError: A loss or gradient is not finite (the step and its images are named), memory ran out, nothing
            trains, or the batch cannot be divided.
        CheckpointError: The state in ``folder`` is damaged, or belongs to another model or optimiser.
        KeyboardInterrupt: Asked for by Ctrl-C; the state was saved.
    """
    assert running.precision is not None  # what settled means
    assert judge is not None or running.evaluate_every is None
    processes = processes or Processes(0, 1, next(model.parameters()).device)
    running.check_split(settings.batch, processes.count)
    run = _Run(model, split, step, settings, running, Path(folder), seed, judge, processes)
    return run.go(progress, what, save_seconds)


@dataclass(eq=False)
class _Run:
    """A run of the loop, and one process' share of each update. Arguments as ``run_loop``."""

    model: AdaptiveViT
    split: ImageSplit
    step: Step
    settings: OptimizerOptions
    running: TrainingOptions
    folder: Path
    seed: int
    judge: Judge | None
    processes: Processes

    def __post_init__(self) -> None:
        self.device, self.precision = self.processes.device, str(self.running.precision)
        self.optimiser = make_optimiser(self.model, self.settings)
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.scaler = loss_scaler(self.precision, self.device)
        self.processes.share_weights(self.model)
        decay = self.running.ema
        self.ema = None if decay is None else timm.utils.ModelEmaV3(self.model, decay=decay, use_warmup=True)
        self.selection = Selection(self.running.patience)
        self.parts = self.running.accumulation
        self.seconds = 0.0
        self.durations: list[float] = []
        self.losses: list[float] = []

    @property
    def average(self) -> AdaptiveViT:
        """The network whose weights are evaluated and written: the averaged one, or the model itself without one."""
        return self.model if self.ema is None else self.ema.module

    def go(self, progress: Progress, what: str, save_seconds: float) -> Loop:
        """All that is left to do."""
        processes, total = self.processes, self.settings.steps
        done = number = saved = self._resume()
        shown: dict[str, float] = {}
        progress.stage(what, total, done)
        batches = stream(
            self.split, self.settings, seed=self.seed, first=done + 1, last=total,
            rank=processes.rank, world=processes.count, pinned=self.device.type == "cuda",
        )  # fmt: skip
        with _noted_interruptions() as noted, closing(batches), ExitStack() as stack:
            note = stack.enter_context(journal(self.folder, done)) if processes.first else None
            last_save = time.monotonic()
            while number < total and not self.selection.exhausted:
                number += 1
                values = self._update(number, batches)
                best = self._evaluate(number, values)
                if note is not None:
                    note(values)
                shown |= {name: values[name] for name in values if name in _SHOWN or name.startswith("val_")}
                progress.advance(1, **shown)
                due = processes.first and time.monotonic() - last_save >= save_seconds
                asked, due = processes.any(bool(noted), due)
                if asked or due or best:
                    self._save(number)
                    saved, last_save = number, time.monotonic()
                if asked:
                    raise KeyboardInterrupt
            if number > saved:
                self._save(number)
        selected = None
        if self.selection.value is not None:
            file = state_file(self.folder, self.selection.step, "best")
            with readable(file):
                best_weights = torch.load(file, map_location="cpu", weights_only=True)
            self.model.load_state_dict(best_weights, strict=True)
            selected = Selected(self.running.metric, self.selection.value, self.selection.step)
        elif self.ema is not None:
            self.model.load_state_dict(self.average.state_dict(), strict=True)
        self.model.eval()
        warm, tail = sorted(self.durations[1:]), self.losses[-max(1, len(self.losses) // 10) :]
        pace, loss = warm[len(warm) // 2] if warm else None, sum(tail) / len(tail) if tail else None
        return Loop(number, self.seconds, pace, loss, selected)

    def _resume(self) -> int:
        """Take up the newest state; how many updates are done."""
        content = load_state(self.folder)
        if content is None:
            return 0
        with readable(state_file(self.folder, content["step"])):
            self.model.load_state_dict(content["model"], strict=True)
            self.optimiser.load_state_dict(content["optimiser"])
            self.scaler.load_state_dict(content["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(content["ema"], strict=True)
            self.selection.restore(content["best"])
            self.seconds = float(content["seconds"])
            if self.settings.batch // self.processes.count % content["parts"] == 0:  # there may be other processes now
                self.parts = int(content["parts"])
        return int(content["step"])

    def _save(self, number: int) -> None:
        """Write a state, by the first process; every draw and rate is a function of the update's number."""
        if not self.processes.first:
            return
        content = {
            "step": number,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "best": self.selection.as_state(),
            "parts": self.parts,
        }
        save_state(self.folder, content, keep=self.running.keep)
        drop_other_best(self.folder, self.selection.step)

    def _evaluate(self, number: int, values: dict[str, float]) -> bool:
        """Where an evaluation is due, add it to the values of the step; whether it is the best so far."""
        every, judge = self.running.evaluate_every, self.judge
        if every is None or judge is None or (number % every and number != self.settings.steps):
            return False
        found = self.processes.once(lambda: judge.value(self.average))
        values[f"val_{judge.metric.name}"] = found
        best = self.selection.see(judge.metric, found, number)
        if best and self.processes.first:
            # Before the state that names them by their step.
            write_state(state_file(self.folder, number, "best"), dict(self.average.state_dict()))
        return best

    def _update(self, number: int, batches: Iterator[Batch]) -> dict[str, float]:
        """One update, with the next batch; its values for the log, means over all images of the batch."""
        start = time.perf_counter()
        batch, mine, waited = self.processes.together(lambda: self._own_share(number, batches))
        for parameter in self.trained:
            # A layer that layer dropout left out has a gradient of 0, not none: its momentum goes on, as officially.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.average([p.grad for p in self.trained if p.grad is not None])
        norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
        self.processes.average(statistics)  # each process updates them by its own share of a batch
        values = self.processes.mean(mine)
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip or math.inf).item()
        self._check_finite(mine["loss"], values["loss"], norm, number, batch)
        rate = self.settings.learning_rate().at(number)
        set_rate(self.optimiser, rate)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=number)
        duration = time.perf_counter() - start - waited
        self.seconds += duration
        self.durations.append(duration)
        self.losses.append(values["loss"])
        # Gradients that overflowed were not applied, and have no norm.
        known = {"gradient_norm": norm} if math.isfinite(norm) else {}
        if self.scaler.is_enabled():
            known["loss_scale"] = self.scaler.get_scale()
        known["images_per_second"] = round(self.settings.batch / duration, 2)
        return {"step": number, **values, "lr": rate, **known, "seconds_waiting": round(waited, 4)}

    def _own_share(self, number: int, batches: Iterator[Batch]) -> tuple[Batch, dict[str, float], float]:
        """This process' part of the batch, the values it gave, and the seconds it was waited for.

        Where memory runs out and that is allowed, fewer images are computed at once from then on.
        """
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        size, parts = len(batch.places), self.parts
        while True:
            try:
                values = self._accumulate(batch, number, parts)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback holds on to the tensors of the attempt.
            self.model.zero_grad(set_to_none=True)
            free_memory()
            if parts >= size:
                raise TrainingError(
                    "not even one image at a time fits into the memory; choose a smaller `image_size` or model, or "
                    "train fewer of its layers"
                )
            parts = next(more for more in range(min(2 * parts, size), size + 1) if size % more == 0)
        if parts != self.parts:
            had = f"memory ran out at step {number} with {size // self.parts} images at once"
            said = f"{had}, and suffices for {size // parts}"
            if not self.running.allow_smaller_batch:
                raise TrainingError(
                    f"{said}: give `allow_smaller_batch` to compute so many at once (an update stays as it is), or "
                    "start again with a smaller `batch`"
                )
            _log.warning("%s: so many are computed at once from here on", said)
            self.parts = parts
        return batch, values, waited

    def _accumulate(self, batch: Batch, number: int, parts: int) -> dict[str, float]:
        """Leave the gradients of the mean over all parts on the parameters; the step's values, means over the parts."""
        sums: dict[str, float] = {}
        seed = [self.seed, 3, number, self.processes.rank]

        def backward(term: Tensor) -> None:
            torch.autograd.backward(self.scaler.scale(term if parts == 1 else term / parts))

        self.model.train()
        # One autocast context for all passes of the step, so that each weight is converted once.
        with (
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            autocast(self.precision, self.device),
            training_attention(self.model.tokens, self.device, dtype_of(self.precision)),
        ):
            # Dropout reads torch's own stream, which is put back afterwards.
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
            for part in _parts(batch, parts, self.device, next(self.model.parameters()).dtype):
                draws = np.random.default_rng([self.seed, 2, number])
                for name, value in self.step(part, draws, backward).items():
                    sums[name] = sums.get(name, 0.0) + value.item() / parts
        return sums

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


def _parts(batch: Batch, parts: int, device: torch.device, dtype: torch.dtype) -> Iterator[Batch]:
    """Equal shares of a batch, in order, on a device; a model in float64 takes its images so."""
    size = len(batch.places) // parts
    to: dict[str, Any] = {"device": device, "non_blocking": True}  # which waits all the same where nothing is pinned
    for start in range(0, size * parts, size):
        share = slice(start, start + size)
        yield replace(
            batch,
            images=batch.images[share].to(dtype=dtype, **to),
            labels=batch.labels[share].to(**to),
            soft=None if batch.soft is None else batch.soft[share].to(**to),
            places=batch.places[share],
        )


@contextmanager
def _noted_interruptions() -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM is only noted; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, nothing is noted.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

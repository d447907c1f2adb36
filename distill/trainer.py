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
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.core.progress import Progress
from tavt_kit.distill.datasets import Batch, ImageSplit, stream
from tavt_kit.distill.losses import Step
from tavt_kit.distill.optimizer import make_optimiser, set_rate
from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.run_folder import journal, load_state, readable, save_state, state_file, write_state
from tavt_kit.distill.sandwich import training_attention
from tavt_kit.errors import MeasurementError, TrainingError, UnknownName
from tavt_kit.evaluation.metrics import METRICS, Predictions, class_index, find_metric
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes.out_of_memory import is_out_of_memory
from tavt_kit.runtimes.torch_session import DTYPES, is_bf16_faster


@dataclass(frozen=True, slots=True)
class SelectionMetric:
    """A metric of the catalogue that one model's logits tell, of classes in the order of the logits.

    Raises:
        UnknownName: Another metric.
        DataError: The recall of a class that is not there.
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        metric, _ = find_metric(self.name)
        if metric.needs == "dense" or self.name == metric.recorded:
            known = ", ".join(name for name, each in METRICS.items() if each.needs != "dense")
            raise UnknownName(f"weights are selected by one of {known}, got {self.name!r}")
        class_index(self.name, self.classes)

    def better(self, value: float, other: float) -> bool:
        """Whether a value is better than another; of equals neither is."""
        return find_metric(self.name)[0].better(value, other)

    def of(self, logits: Tensor, labels: NDArray[np.int64]) -> float:
        """Of logits (n, classes) on the CPU and labels (n,); MeasurementError of no finite logits, or no such image."""
        if not bool(torch.isfinite(logits).all()):
            raise MeasurementError(f"the logits are not finite, so there is no {self.name}")
        seen = Predictions(logits.numpy(), labels, class_index(self.name, self.classes))
        value = find_metric(self.name)[0].of(seen)
        if math.isnan(value):
            raise MeasurementError(f"val has no image of the class that {self.name} names")
        return value


_NAMES = {"fp32": "f32", "float32": "f32", "bfloat16": "bf16", "fp16": "f16", "float16": "f16"}


def choose_device(text: str | None) -> torch.device:
    """``None`` or ``"auto"``: a CUDA GPU if there is one, else the CPU; TrainingError for a device not here."""
    if text is None or text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"training runs on auto, cpu or cuda[:N], got {text!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"{text} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use `device` cpu"
        )
    return device


def choose_precision(text: str | None, device: torch.device) -> str:
    """``"f32"``, ``"bf16"`` or ``"f16"``; ``None`` is bf16 where the processor multiplies it faster, else f32."""
    if text is None:
        return "bf16" if is_bf16_faster(device) else "f32"
    name = _NAMES.get(text, text)
    if name not in DTYPES:
        raise TrainingError(f"training runs in {' or '.join(DTYPES)}, got {text!r}")
    return name


def evaluation_precision(precision: str) -> str:
    """What a model trained in ``precision`` is evaluated in: float16 may overflow without its loss scaling's help."""
    return "f32" if precision == "f16" else precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in the 16 bits asked for, or everything as it is."""
    if precision == "f32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


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
class Loop:
    """What a finished loop says of itself.

    Args:
        seconds: Time of all updates, those of interrupted processes included; without evaluations and waiting.
        seconds_per_step: Median of this process' steps, the first left out.
        loss: Mean of the last tenth of them.
        selected: Metric, value and update of the best evaluation on ``val``, whose weights are the run's.
    """

    steps: int
    seconds: float
    seconds_per_step: float | None
    loss: float | None
    selected: dict[str, Any] | None = None

    def as_record(self, batch: int) -> dict[str, Any]:
        """JSON-ready, with the speed people ask for."""
        speed = None if self.seconds_per_step is None else batch / self.seconds_per_step
        return {**asdict(self), "images_per_second": speed}


@dataclass(eq=False)
class Trainer:
    """Trains, from where ``folder`` says an earlier process was, to the end.

    Args:
        model: Trained in place, on its device; what must not be trained is frozen already. It ends with the weights of
            the best evaluation, else with the averaged ones, else with the last.
        settings: Optimisation, with nothing left open (``OptimizerOptions.settled``); so is ``running``.
        what: Name of the stage, for who watches.
    """

    model: AdaptiveViT
    split: ImageSplit
    step: Step
    settings: OptimizerOptions
    running: TrainingOptions
    folder: Path
    _: KW_ONLY
    seed: int
    progress: Progress
    what: str
    judge: Judge | None = None
    save_seconds: float = SAVE_SECONDS

    def __post_init__(self) -> None:
        assert self.running.precision is not None  # what settled means
        assert self.judge is not None or self.running.evaluate_every is None
        self.running.check_split(self.settings.batch)
        self.device, self.precision = next(self.model.parameters()).device, str(self.running.precision)
        self.optimiser = make_optimiser(self.model, self.settings)
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        # The small gradients of float16 would vanish unless the loss is scaled; in other precisions it does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "f16")
        decay = self.running.ema
        self.ema = None if decay is None else timm.utils.ModelEmaV3(self.model, decay=decay, use_warmup=True)
        self.best_value: float | None = None
        self.best_step = 0
        self.seconds = 0.0
        self.durations: list[float] = []
        self.losses: list[float] = []

    @property
    def average(self) -> AdaptiveViT:
        """The network whose weights are evaluated and written: the averaged one, or the model itself without one."""
        return self.model if self.ema is None else self.ema.module

    def run(self) -> Loop:
        """All that is left to do.

        Raises:
            TrainingError: A loss or gradient is not finite, or memory ran out.
            CheckpointError: The state in ``folder`` is damaged, or belongs to another model or optimiser.
            KeyboardInterrupt: Asked for by Ctrl-C; the state was saved.
        """
        total = self.settings.steps
        done = number = saved = self._resume()
        shown: dict[str, float] = {}
        self.progress.stage(self.what, total, done)
        batches = stream(
            self.split, self.settings, seed=self.seed, first=done + 1, last=total, pinned=self.device.type == "cuda"
        )
        with _noted_interruptions() as noted, closing(batches), journal(self.folder, done) as note:
            last_save = time.monotonic()
            while number < total:
                number += 1
                values = self._update(number, batches)
                best = self._evaluate(number, values)
                note(values)
                shown |= {name: values[name] for name in values if name in _SHOWN or name.startswith("val_")}
                self.progress.advance(1, **shown)
                asked = bool(noted)
                if asked or best or time.monotonic() - last_save >= self.save_seconds:
                    self._save(number)
                    saved, last_save = number, time.monotonic()
                if asked:
                    raise KeyboardInterrupt
            if number > saved:
                self._save(number)
        selected = None
        if self.best_value is not None:
            file = state_file(self.folder, self.best_step, "best")
            with readable(file):
                best_weights = torch.load(file, map_location="cpu", weights_only=True)
            self.model.load_state_dict(best_weights, strict=True)
            selected = {"metric": self.running.metric, "value": self.best_value, "step": self.best_step}
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
            self.best_value, self.best_step = content["best"]["value"], int(content["best"]["step"])
            self.seconds = float(content["seconds"])
        return int(content["step"])

    def _save(self, number: int) -> None:
        """Write a state; every draw and rate is a function of the update's number."""
        content = {
            "step": number,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "best": {"value": self.best_value, "step": self.best_step},
        }
        save_state(self.folder, content)

    def _evaluate(self, number: int, values: dict[str, float]) -> bool:
        """Where an evaluation is due, add it to the values of the step; whether it is the best so far."""
        every, judge = self.running.evaluate_every, self.judge
        if every is None or judge is None or (number % every and number != self.settings.steps):
            return False
        value, metric = judge.value(self.average), judge.metric
        if not math.isfinite(value):
            raise MeasurementError(f"the {metric.name} of step {number} is {value}, so nothing can be selected by it")
        values[f"val_{metric.name}"] = value
        if self.best_value is not None and not metric.better(value, self.best_value):
            return False
        self.best_value, self.best_step = value, number
        # Before the state that names them by their step.
        write_state(state_file(self.folder, number, "best"), dict(self.average.state_dict()))
        return True

    def _update(self, number: int, batches: Iterator[Batch]) -> dict[str, float]:
        """One update, with the next batch; its values for the log, means over all images of the batch."""
        start = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - start
        try:
            values = self._accumulate(batch, number)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            parts = self.running.accumulation
            raise TrainingError(
                f"memory ran out at step {number} with {len(batch.places) // parts} images at once; give "
                f"`accumulation` {2 * parts} to compute a batch in so many parts, or a smaller `image_size` or model"
            ) from None
        for parameter in self.trained:
            # A layer that layer dropout left out has a gradient of 0, not none: its momentum goes on, as officially.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip or math.inf).item()
        self._check_finite(values["loss"], norm, number, batch)
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

    def _accumulate(self, batch: Batch, number: int) -> dict[str, float]:
        """Leave the gradients of the mean over all parts on the parameters; the step's values, means over the parts."""
        sums: dict[str, float] = {}
        parts = self.running.accumulation
        seed = [self.seed, 3, number, 0]

        def backward(term: Tensor) -> None:
            torch.autograd.backward(self.scaler.scale(term if parts == 1 else term / parts))

        self.model.train()
        # One autocast context for all passes of the step, so that each weight is converted once.
        with (
            torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
            autocast(self.precision, self.device),
            training_attention(self.model.tokens, self.device, DTYPES[self.precision]),
        ):
            # Dropout reads torch's own stream, which is put back afterwards.
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
            for part in _parts(batch, parts, self.device, next(self.model.parameters()).dtype):
                draws = np.random.default_rng([self.seed, 2, number])
                for name, value in self.step(part, draws, backward).items():
                    sums[name] = sums.get(name, 0.0) + value.item() / parts
        return sums

    def _check_finite(self, loss: float, norm: float, number: int, batch: Batch) -> None:
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() > _LEAST_SCALE
        if math.isfinite(loss) and (math.isfinite(norm) or overflow):
            return
        names = [self.split.names[index] for index in batch.places]
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

"""The engine: step after step, watched, logged, saved, and continued to the bit.

Every random draw of a step (which pictures, how they are changed, which sub-networks, dropout) is a function of the
seed and the step's number. So a run that is killed and continued makes the very steps of one that never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.distill.augment import augment
from tavt_kit.distill.interrupt import Interruption
from tavt_kit.distill.metrics import MetricsLog
from tavt_kit.distill.optimiser import make_optimiser
from tavt_kit.distill.pictures import Order, Pictures
from tavt_kit.distill.precision import autocast, dtype_of
from tavt_kit.distill.progress import Progress
from tavt_kit.distill.recipe import Optimisation
from tavt_kit.distill.state import load_state, save_state
from tavt_kit.distill.step import training_attention
from tavt_kit.errors import TrainingError

__all__ = ["SAVE_SECONDS", "Loop", "Step", "run_loop"]

SAVE_SECONDS = 60.0

Step = Callable[[Tensor, Tensor, np.random.Generator, int], Mapping[str, Tensor]]
"""(images, labels, draws, number of the update, from 1) -> named 0-d values with ``loss`` among them; leaves gradients
on the parameters."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What a finished loop says of itself.

    Args:
        steps: Updates.
        seconds: In all, those of interrupted processes included.
        seconds_per_step: Of the steps of this process, the first left out; ``None`` if it made too few.
        loss: Mean of the last tenth of this process' steps; ``None`` if it made none.
    """

    steps: int
    seconds: float
    seconds_per_step: float | None
    loss: float | None


def run_loop(
    model: AdaptiveViT,
    pictures: Pictures,
    step: Step,
    settings: Optimisation,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    what: str,
    save_seconds: float = SAVE_SECONDS,
) -> Loop:
    """Train, from where ``folder`` says an earlier process was, to the end.

    Args:
        model: Trained in place, on the device it is on; what must not be trained is frozen already.
        pictures: The training split.
        step: Computes gradients and values.
        settings: With nothing left open (``Optimisation.settled``).
        folder: Gets ``metrics.jsonl`` and ``state/``.
        seed: Of everything random.
        progress: Watches.
        what: Name of the stage.
        save_seconds: Time between two saved states.

    Raises:
        TrainingError: A loss or gradient is not finite; the step and its pictures are named.
        KeyboardInterrupt: Asked for by Ctrl-C; the state was saved.
    """
    engine = _Engine(model, pictures, step, settings, Path(folder), seed)
    done = engine.resume()
    progress.stage(what, settings.steps, done)
    with Interruption() as interruption, MetricsLog(folder, done) as log:
        last_save = time.monotonic()
        for number in range(done + 1, settings.steps + 1):
            values = engine.update(number)
            log.write(values)
            progress.advance(1, loss=values["loss"], images_per_second=values["images_per_second"])
            if interruption.asked or time.monotonic() - last_save >= save_seconds:
                engine.save(number)
                last_save = time.monotonic()
            if interruption.asked:
                raise KeyboardInterrupt
        if done < settings.steps:
            engine.save(settings.steps)
    model.eval()
    return engine.summary()


class _Engine:
    """One process' share of a training run."""

    def __init__(
        self, model: AdaptiveViT, pictures: Pictures, step: Step, settings: Optimisation, folder: Path, seed: int
    ) -> None:
        assert settings.precision is not None  # what settled means
        self.model, self.pictures, self.step, self.settings = model, pictures, step, settings
        self.folder, self.seed = folder, seed
        self.order = Order(len(pictures), settings.batch, seed)
        self.rate = settings.learning_rate()
        self.optimiser = make_optimiser(
            model,
            settings.optimiser,
            rate=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        )
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.device = self.trained[0].device
        self.seconds = 0.0
        self.durations: list[float] = []
        self.losses: list[float] = []

    def resume(self) -> int:
        """Updates that are done already."""
        saved = load_state(self.folder, self.model, self.optimiser)
        if saved is None:
            return 0
        self.seconds = saved.seconds
        return saved.step

    def save(self, number: int) -> None:
        save_state(self.folder, self.model, self.optimiser, step=number, seconds=self.seconds)

    def update(self, number: int) -> dict[str, float]:
        """One step; its values for the log."""
        start = time.perf_counter()
        places = self.order.of(number)
        images, labels = self._batch(places, number)
        values = {name: value.item() for name, value in self._gradients(images, labels, number).items()}
        for parameter in self.trained:
            # A layer that layer dropout left out has a gradient of 0, not none: its momentum goes on, as officially.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip).item()
        self._check_finite(values["loss"], norm, number, places)
        rate = self.rate.at(number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        duration = time.perf_counter() - start
        self.seconds += duration
        self.durations.append(duration)
        self.losses.append(values["loss"])
        speed = round(len(places) / duration, 2)
        return {"step": number, **values, "lr": rate, "gradient_norm": norm, "images_per_second": speed}

    def _batch(self, places: np.typing.NDArray[np.int64], number: int) -> tuple[Tensor, Tensor]:
        draws = np.random.default_rng([self.seed, 1, number])
        pixels = augment(self.pictures.pixels[places], self.settings.augment, draws)
        images = torch.from_numpy(self.pictures.inputs(pixels))
        labels = torch.from_numpy(self.pictures.labels[places])
        return images.to(self.device), labels.to(self.device)

    def _gradients(self, images: Tensor, labels: Tensor, number: int) -> Mapping[str, Tensor]:
        precision = str(self.settings.precision)
        draws = np.random.default_rng([self.seed, 2, number])
        devices = [self.device] if self.device.type == "cuda" else []
        self.model.train()
        # One autocast context for all passes of the step, so that each weight is converted once.
        with (
            torch.random.fork_rng(devices=devices),
            autocast(precision, self.device),
            training_attention(self.model.tokens, self.device, dtype_of(precision)),
        ):
            # Dropout reads torch's own stream, which is put back afterwards.
            torch.manual_seed(int(np.random.default_rng([self.seed, 3, number]).integers(2**63)))
            return self.step(images, labels, draws, number)

    def _check_finite(self, loss: float, norm: float, number: int, places: np.typing.NDArray[np.int64]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        names = ", ".join(self.pictures.names[place] for place in places[:4])
        more = f" and {len(places) - 4} more" if len(places) > 4 else ""
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        raise TrainingError(
            f"training diverged at step {number} ({what}) on the pictures {names}{more}; start again (--fresh) "
            "with a smaller --lr, a longer --warmup or --precision f32"
        )

    def summary(self) -> Loop:
        warm = sorted(self.durations[1:])
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return Loop(
            self.settings.steps,
            self.seconds,
            warm[len(warm) // 2] if warm else None,
            sum(tail) / len(tail) if tail else None,
        )

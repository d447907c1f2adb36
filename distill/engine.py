"""One process' share of a training run: gradients of a batch, averaged, clipped and applied."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tavt_kit.distill.feed import Batch
from tavt_kit.distill.gradients import Gradients, Step
from tavt_kit.distill.optimisation import Optimisation
from tavt_kit.distill.optimiser import make_optimiser, set_rate
from tavt_kit.distill.pictures import Pictures
from tavt_kit.distill.precision import loss_scaler
from tavt_kit.distill.processes import Processes
from tavt_kit.distill.randomness import random_state, set_random_state
from tavt_kit.distill.running import Running
from tavt_kit.distill.selection import Selection
from tavt_kit.distill.state import load_state, readable, save_state, state_file
from tavt_kit.errors import TrainingError
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Engine"]

_LEAST_SCALE = 1.0
"""Gradients that overflow float16 without any scaling of the loss are not finite in earnest."""


class Engine:
    """Moves a model, update by update; everything random in an update is a function of the seed and its number.

    Args:
        model: On the device of ``processes``; what must not be trained is frozen already.
        pictures: The training split; for messages.
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
        pictures: Pictures,
        step: Step,
        settings: Optimisation,
        running: Running,
        *,
        seed: int,
        processes: Processes,
    ) -> None:
        assert running.precision is not None  # what settled means
        running.check_split(settings.batch, processes.count)
        self.model, self.pictures = model, pictures
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

        The number is also the position of the learning rate's schedule and of the order of the pictures, which are
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
        """One update, with the next batch; its values for the log, means over all pictures of the batch.

        Raises:
            TrainingError: The loss or a gradient is not finite (the pictures are named), or memory ran out.
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
        own = [self.pictures.names[place] for place in batch.places] if culprit else []
        names = [name for several in self.processes.gather(own) for name in several]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
        raise TrainingError(
            f"training diverged at step {number} ({what}) on the pictures {', '.join(names[:4])}{more}; start again "
            "(`fresh`) with a smaller `lr`, a longer `warmup` or `precision` f32"
        )


def _running_statistics(model: nn.Module) -> Iterator[Tensor]:
    """Means and variances that each process updates by its own share of a batch."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    yield statistic

"""The gradients of a batch: in parts, in the precision asked for, with draws that are functions of seed and update."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tavt_kit.distill.feed import Batch
from tavt_kit.distill.memory import fitting
from tavt_kit.distill.precision import autocast, dtype_of
from tavt_kit.distill.processes import Processes
from tavt_kit.distill.running import Running
from tavt_kit.distill.step import training_attention
from tavt_kit.errors import TrainingError
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Backward", "Gradients", "Step"]

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
        running: Running,
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
            TrainingError: Memory ran out, and fewer pictures at once are not allowed, or do not fit either.
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
            f"memory ran out at step {number} with {size // self.parts} pictures at once, and suffices for "
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
        # A model in float64 takes its pictures so.
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

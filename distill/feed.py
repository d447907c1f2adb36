"""Batches, update after update: which pictures, and how they are changed, as functions of the seed and the update."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.distill.augment import augment
from tavt_kit.distill.pictures import Order, Pictures
from tavt_kit.distill.recipe import Optimisation

__all__ = ["Batch", "stream"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One process' share of an update.

    Args:
        images: (b, 3, H, W) float32.
        labels: (b,) int64.
        soft: (b, C) probabilities where pictures were mixed, else ``None``.
        places: (b,) of the pictures in the split, for messages.
        number: Of the update, counted from 1; what changes in the course of a run goes by it.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None
    places: NDArray[np.int64]
    number: int = 1


def stream(
    pictures: Pictures, settings: Optimisation, *, seed: int, first: int, last: int, rank: int = 0, world: int = 1
) -> Generator[Batch]:
    """The batches of the updates ``first`` to ``last``, both included; of several processes, the share of ``rank``.

    Raises:
        TrainingError: Fewer pictures than a batch needs.
    """
    order = Order(len(pictures), settings.batch, seed)
    size = settings.batch // world
    share = slice(rank * size, (rank + 1) * size)
    for number in range(first, last + 1):
        places = order.of(number)
        # All of the batch is changed, so that the draws do not depend on the number of processes.
        pixels = augment(pictures.pixels[places], settings.augment, np.random.default_rng([seed, 1, number]))[share]
        places = places[share]
        images = torch.from_numpy(pictures.inputs(pixels))
        yield Batch(images, torch.from_numpy(pictures.labels[places]), None, places, number)

"""Training runs in processes of their own, to be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tavt_kit.core.progress import Silent
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.datasets import Batch, ImageSplit
from tavt_kit.distill.in_place import _prepare
from tavt_kit.distill.losses import Backward, Step
from tavt_kit.distill.optimizer import freeze
from tavt_kit.distill.options import DataOptions, OptimizerOptions, TrainingOptions
from tavt_kit.distill.recipes import DistillRecipe
from tavt_kit.distill.sandwich import SandwichRule, sandwich_step
from tavt_kit.distill.trainer import Judge, SelectionMetric, Trainer
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT

_CONTEXT = multiprocessing.get_context("forkserver")
# The server imports torch and the rest once; its children are forks of it.
_CONTEXT.set_forkserver_preload(["tests.distill.children"])

CLASSES = ("a", "b", "c")


@dataclass(frozen=True)
class Job:
    """A run that a child process can make from nothing else."""

    settings: OptimizerOptions
    running: TrainingOptions
    distils: bool
    double: bool = False
    dropout: float = 0.0


def some_images(count: int = 48) -> ImageSplit:
    """Noise, a little brighter by class."""
    draws = np.random.default_rng(0)
    labels = np.arange(count) % len(CLASSES)
    pixels = draws.integers(0, 180, (count, 3, 32, 32)) + 30 * labels[:, None, None, None]
    names = tuple(f"{index}.png" for index in range(count))
    return ImageSplit(
        pixels.astype(np.uint8), labels.astype(np.int64), names, Preprocessing((32, 32)),
        classes=len(CLASSES), reading=DataOptions(augment=("flip", "shift")),
    )  # fmt: skip


def some_model(job: Job) -> AdaptiveViT:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
    bare = timm.create_model(
        "vit_tiny_patch16_224", num_classes=len(CLASSES), proj_drop_rate=job.dropout, **arguments
    ).eval()
    return AdaptiveViT(bare.double() if job.double else bare)


class Memory:
    """Makes a step run out of memory with more than ``room`` images."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []

    def __call__(self, step: Step) -> Step:
        def steps(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            self.tried.append(len(batch.labels))
            values = step(batch, draws, backward)
            if len(batch.labels) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return values

        return steps


def run(job: Job, folder: Path, weights: Path) -> None:
    """Train and write the final weights."""
    torch.set_num_threads(1)
    model = some_model(job)
    if job.distils:
        recipe = DistillRecipe(bound=0.4, sub_networks=1, layer_dropout=0.1, optimisation=job.settings)
        step, _ = _prepare(model, recipe)
    else:
        freeze(model, 0)
        rule = SandwichRule()

        def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            return {"loss": sandwich_step(model, batch.images, batch.labels, (), rule=rule, backward=backward).loss}

    metric, val = SelectionMetric(job.running.metric, CLASSES), some_images(9)

    def value(model: AdaptiveViT) -> float:
        images = torch.from_numpy(val.inputs(val.pixels)).to(model.get_parameter("head.weight").dtype)
        with torch.no_grad():
            return metric.of(model.eval()(images), val.labels)

    folder.mkdir(exist_ok=True)
    Trainer(
        model, some_images(), step, job.settings, job.running, folder,
        seed=0, progress=Silent(), what="x", judge=Judge(metric, value), save_seconds=0.0,
    ).run()  # fmt: skip
    torch.save(model.state_dict(), weights)


def warm_up() -> None:
    """Wait until the server of processes is there."""
    child = _CONTEXT.Process(target=int)
    child.start()
    child.join()


def start(job: Job, folder: Path, weights: Path) -> BaseProcess:
    """The same, in a process of its own."""
    child = _CONTEXT.Process(target=run, args=(job, folder, weights))
    child.start()
    return child

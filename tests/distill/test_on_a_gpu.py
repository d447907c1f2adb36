"""What only a GPU has: memory that really runs out, and float16 kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tavt_kit.core.progress import Silent
from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.in_place import _prepare
from tavt_kit.distill.losses import Backward
from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.recipes import DistillRecipe
from tavt_kit.distill.run_folder import read_metrics
from tavt_kit.distill.trainer import Trainer
from tavt_kit.errors import TrainingError
from tests.distill.children import Job, some_images, some_model

pytestmark = pytest.mark.gpu(pretended=True)
SETTINGS = OptimizerOptions(steps=12, batch=8, lr=3e-3, warmup=2, freeze=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f16", "f32", "bf16"])
def test_every_precision_trains(tmp_path: Path, precision: str) -> None:
    running = TrainingOptions(precision=precision, ema=0.9)
    model = some_model(Job(SETTINGS, running, distils=True)).cuda()
    step, _ = _prepare(model, DistillRecipe(optimisation=SETTINGS))
    Trainer(model, some_images(), step, SETTINGS, running, tmp_path, seed=0, progress=Silent(), what="x").run()
    losses = [line["loss"] for line in read_metrics(tmp_path)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_memory_that_really_runs_out_is_a_sentence(tmp_path: Path) -> None:
    settings, running = replace(SETTINGS, steps=2), TrainingOptions(precision="f32")
    model = some_model(Job(settings, running, distils=False)).cuda()
    step, _ = _prepare(model, DistillRecipe(optimisation=settings))
    each = torch.cuda.mem_get_info()[0] // 5

    def hungry(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        held = torch.empty(each * len(batch.labels), dtype=torch.uint8, device="cuda")
        values = step(batch, draws, backward)
        del held
        return values

    with pytest.raises(TrainingError, match="give `accumulation` 2"):
        Trainer(model, some_images(), hungry, settings, running, tmp_path, seed=0, progress=Silent(), what="x").run()

"""kill -9 at whatever moment: the run that is continued ends with the very weights of one that never stopped."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.run_folder import read_metrics
from tests.distill.children import Job, start, warm_up

JOB = Job(
    OptimizerOptions(steps=24, batch=8, lr=3e-3, warmup=2, freeze=1),
    TrainingOptions(precision="f32", accumulation=2, ema=0.9, evaluate_every=3, metric="loss"),
    distils=True,
    dropout=0.1,
)


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "precision"), [(1, "f32"), (30, "f32"), (10, "f16")])
def test_killed_at_random_moments(tmp_path: Path, kills: int, precision: str) -> None:
    job = Job(
        JOB.settings,
        TrainingOptions(**{**asdict(JOB.running), "precision": precision}),
        True,
        False,
        0.1,
    )
    warm_up()
    begun = time.monotonic()
    straight = start(job, tmp_path / "straight", tmp_path / "straight.pt")
    straight.join()
    lasted = time.monotonic() - begun
    assert straight.exitcode == 0
    draws = random.Random(0)
    killed = 0
    for _ in range(kills):
        child = start(job, tmp_path / "broken", tmp_path / "broken.pt")
        child.join(timeout=draws.uniform(0.2, 1.0) * lasted * 3 / (kills + 3))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
    last = start(job, tmp_path / "broken", tmp_path / "broken.pt")
    last.join()
    assert last.exitcode == 0 and killed
    ours, theirs = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("broken", "straight"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = [read_metrics(tmp_path / name) for name in ("broken", "straight")]
    assert [line["step"] for line in lines[0]] == list(range(1, 25))
    for name in ("loss", "val_loss", "kl_smallest", "gradient_norm"):
        assert [line.get(name) for line in lines[0]] == [line.get(name) for line in lines[1]]
    states = sorted(path.name for path in (tmp_path / "broken" / "state").iterdir())
    assert len(states) == 2 and states[0].startswith("best-") and states[1] == "step-00000024.pt"

"""Two processes on a CPU (gloo) do what one does with the same global batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.processes import Processes
from tavt_kit.distill.run_folder import read_metrics
from tavt_kit.errors import TrainingError
from tests.distill.children import Job, start, start_together

SETTINGS = OptimizerOptions(steps=20, batch=8, lr=3e-3, warmup=2, freeze=0)
RUNNING = TrainingOptions(precision="f32", ema=0.9, evaluate_every=5, metric="loss")


@pytest.mark.parametrize("distils", [False, True], ids=["plain", "distillation"])
def test_two_processes_train_as_one(tmp_path: Path, distils: bool) -> None:
    """Losses and weights within 1e-6 over 20 steps, in float64 without dropout and with the same schedules."""
    job = Job(SETTINGS, RUNNING, distils, double=True)
    children = [start(job, tmp_path / "one", tmp_path / "one.pt")]
    children += start_together(job, tmp_path / "two", tmp_path / "two.pt", world=2)
    for child in children:
        child.join()
        assert child.exitcode == 0
    lines = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 20
    names = {"loss", "val_loss", "gradient_norm", "kl_smallest"} & set(lines[0][-1])
    for ours, theirs in zip(*lines, strict=True):
        for name in names & set(ours):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), (ours["step"], name)
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    for name, tensor in one.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-9)


def test_what_goes_wrong_in_one_process_ends_all_of_them(tmp_path: Path) -> None:
    """The first process, which speaks for all, says what happened to the second."""
    job = Job(SETTINGS, RUNNING, distils=False, room=1)
    children = start_together(job, tmp_path / "two", tmp_path / "two.pt", world=2)
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 1
    assert "step 1 with 4 images at once, and suffices for 1" in (tmp_path / "two" / "error.txt").read_text()


def test_a_launched_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="a GPU of its own"):
        Processes.join("cuda:1")


def test_a_batch_is_divided_evenly_or_refused() -> None:
    TrainingOptions(accumulation=2).check_split(batch=12, processes=3)
    with pytest.raises(
        TrainingError, match="multiple of 6, for 2 micro-batches in each of 3 processes of equal size, got 16"
    ):
        TrainingOptions(accumulation=2).check_split(batch=16, processes=3)
    with pytest.raises(TrainingError, match="multiple of 3, for 3 micro-batches"):
        TrainingOptions(accumulation=3).check_split(batch=16, processes=1)


@pytest.mark.parametrize("setting", [{"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "-1"}])
def test_junk_of_a_launcher_is_one_sentence(setting: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="launcher"):
        Processes.join("cpu")

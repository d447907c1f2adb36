"""Accumulation, averaging, selection, loss scaling, and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tavt_kit.core.progress import Silent
from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.in_place import _prepare
from tavt_kit.distill.losses import Backward, Step
from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.recipes import DistillRecipe
from tavt_kit.distill.run_folder import read_metrics
from tavt_kit.distill.trainer import Judge, Loop, SelectionMetric, Trainer
from tavt_kit.errors import CheckpointError, MeasurementError, TrainingError
from tavt_kit.models.wrap import AdaptiveViT
from tests.distill.children import CLASSES, Job, Memory, some_images, some_model

SETTINGS = OptimizerOptions(steps=6, batch=8, lr=3e-3, warmup=2, freeze=1)
F32 = TrainingOptions(precision="f32")


def scripted(values: list[float], name: str = "top1") -> Judge:
    """Evaluations that say what is wanted."""
    left: Iterator[float] = iter(values)
    return Judge(SelectionMetric(name, CLASSES), lambda model: next(left))


def go(
    folder: Path,
    running: TrainingOptions = F32,
    settings: OptimizerOptions = SETTINGS,
    *,
    judge: Judge | None = None,
    double: bool = False,
    change: Callable[[Step], Step] = lambda step: step,
    save_seconds: float = 60.0,
) -> tuple[AdaptiveViT, Loop]:
    model = some_model(Job(settings, running, distils=True, double=double))
    step, _ = _prepare(model, DistillRecipe(bound=0.4, sub_networks=1, layer_dropout=0.1, optimisation=settings))
    folder.mkdir(exist_ok=True)
    loop = Trainer(
        model, some_images(), change(step), settings, running, folder,
        seed=0, progress=Silent(), what="x", judge=judge, save_seconds=save_seconds,
    ).run()  # fmt: skip
    return model, loop


@pytest.fixture
def all_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older states stay too."""
    monkeypatch.setattr("tavt_kit.distill.run_folder._KEPT", 9)


def states(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(path, weights_only=True) for path in sorted((folder / "state").glob("step-*.pt"))]


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    """Every term of the distillation step is divided."""
    whole, _ = go(tmp_path / "whole", double=True)
    parts, _ = go(tmp_path / "parts", replace(F32, accumulation=4), double=True)
    for (name, ours), theirs in zip(parts.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)
    for ours, theirs in zip(read_metrics(tmp_path / "parts"), read_metrics(tmp_path / "whole"), strict=True):
        assert [ours[name] for name in ("loss", "kl_random")] == pytest.approx(
            [theirs[name] for name in ("loss", "kl_random")]
        )


def test_a_step_sees_its_part_of_the_batch(tmp_path: Path) -> None:
    seen: list[tuple[int, list[int], float]] = []

    def watched(step: Step) -> Step:
        def steps(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            seen.append((len(batch.images), batch.places.tolist(), draws.random()))
            assert batch.labels.tolist() == [place % len(CLASSES) for place in batch.places]
            return step(batch, draws, backward)

        return steps

    go(tmp_path, replace(F32, accumulation=2), replace(SETTINGS, steps=2), change=watched)
    sizes, places, draws = zip(*seen, strict=True)
    assert sizes == (4,) * 4 and len({place for part in places for place in part}) == 16
    assert draws[0] == draws[1] != draws[2] == draws[3]  # the same sub-networks for the whole of an update


def test_the_average_follows_its_formula_and_is_what_is_written(tmp_path: Path, all_states: None) -> None:
    model, _ = go(tmp_path, replace(F32, ema=0.6), save_seconds=0.0)
    found = states(tmp_path)
    assert [state["step"] for state in found] == [1, 2, 3, 4, 5, 6]
    name = "head.weight"
    average = found[0]["model"][name]  # nothing is averaged after the first update
    for number, state in enumerate(found[1:], 2):
        decay = min(0.6, 1 - number ** (-2 / 3))
        average = decay * average + (1 - decay) * state["model"][name]
        torch.testing.assert_close(state["ema"][name], average)
    assert same(model.state_dict(), found[-1]["ema"]) and not same(model.state_dict(), found[-1]["model"])


def test_the_best_weights_are_taken_of_equals_the_first(tmp_path: Path, all_states: None) -> None:
    running = replace(F32, evaluate_every=1)
    model, loop = go(tmp_path, running, judge=scripted([0.3, 0.7, 0.7, 0.6, 0.1, 0.2]))
    assert loop.steps == 6 and loop.selected is not None and loop.loss is not None
    assert loop.selected == {"metric": "top1", "value": 0.7, "step": 2}
    at_best = next(state for state in states(tmp_path) if state["step"] == 2)
    assert same(model.state_dict(), at_best["model"])
    assert [line["val_top1"] for line in read_metrics(tmp_path)] == [0.3, 0.7, 0.7, 0.6, 0.1, 0.2]
    assert [path.name for path in (tmp_path / "state").glob("best-*")] == ["best-00000002.pt"]
    again, loop = go(tmp_path, running, judge=scripted([]))  # nothing more is done
    assert loop.steps == 6 and same(again.state_dict(), model.state_dict())
    (tmp_path / "state" / "best-00000002.pt").unlink()
    with pytest.raises(CheckpointError, match="best-00000002"):
        go(tmp_path, running, judge=scripted([]))


def test_the_last_update_is_always_evaluated(tmp_path: Path) -> None:
    _, loop = go(tmp_path, replace(F32, evaluate_every=4, metric="loss"), judge=scripted([2.0, 1.0], "loss"))
    assert loop.selected is not None and loop.selected["step"] == 6
    assert [line["step"] for line in read_metrics(tmp_path) if "val_loss" in line] == [4, 6]


def test_only_the_newest_state_stays(tmp_path: Path) -> None:
    go(tmp_path, F32, replace(SETTINGS, steps=5), save_seconds=0.0)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000005.pt"]


def test_a_state_holds_all_that_continues_a_run(tmp_path: Path) -> None:
    go(tmp_path, replace(F32, ema=0.9))
    (state,) = states(tmp_path)
    assert set(state) == {"version", "step", "seconds", "model", "optimiser", "scaler", "ema", "best"}


def test_float16_scales_its_loss_and_skips_what_overflows(tmp_path: Path, all_states: None) -> None:
    seen: list[int] = []

    def overflowing(step: Step) -> Step:
        def steps(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            seen.append(1)
            return step(batch, draws, (lambda term: backward(term * 1e36)) if len(seen) == 3 else backward)

        return steps

    go(tmp_path, replace(F32, precision="f16"), change=overflowing, save_seconds=0.0)
    found, lines = states(tmp_path), read_metrics(tmp_path)
    assert [line["loss_scale"] for line in lines] == [65536.0, 65536.0, *[32768.0] * 4]
    assert [same(old["model"], new["model"]) for old, new in zip(found, found[1:], strict=False)] == [
        False, True, False, False, True,  # the third overflowed, the last has a rate of 0
    ]  # fmt: skip
    assert "gradient_norm" not in lines[2] and "gradient_norm" in lines[3]
    assert found[3]["scaler"]["scale"] == 32768.0


def test_float16_that_overflows_without_scaling_has_diverged(tmp_path: Path) -> None:
    def overflowing(step: Step) -> Step:
        return lambda batch, draws, backward: step(batch, draws, lambda term: backward(term * float("inf")))

    with pytest.raises(TrainingError, match="step 17 .*gradient norm"):
        go(tmp_path, replace(F32, precision="f16"), replace(SETTINGS, steps=30), change=overflowing)


def test_memory_that_runs_out_says_what_to_do(tmp_path: Path) -> None:
    memory = Memory(3)
    with pytest.raises(TrainingError, match="step 1 with 4 images at once; give `accumulation` 4"):
        go(tmp_path, replace(F32, accumulation=2), change=memory)
    assert memory.tried == [4] and read_metrics(tmp_path) == []
    go(tmp_path, replace(F32, accumulation=4), change=memory)
    assert memory.tried[1:] == [2] * 24


def test_an_error_that_is_not_about_memory_is_not_swallowed(tmp_path: Path) -> None:
    def broken(step: Step) -> Step:
        def steps(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        return steps

    with pytest.raises(RuntimeError, match="shapes"):
        go(tmp_path, change=broken)


def test_an_evaluation_that_is_no_number_selects_nothing(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="the top1 of step 1 is nan"):
        go(tmp_path, replace(F32, evaluate_every=1), judge=scripted([float("nan")]))

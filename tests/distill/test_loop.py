"""The engine: continued to the bit, stopped by what is not finite, saved between steps only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tavt_kit.core.progress import Silent
from tavt_kit.data import ImageSet
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.datasets import Batch, ImageSplit, read_images
from tavt_kit.distill.in_place import _prepare
from tavt_kit.distill.losses import Backward, Step
from tavt_kit.distill.options import DataOptions, OptimizerOptions, TrainingOptions
from tavt_kit.distill.recipes import DistillRecipe
from tavt_kit.distill.run_folder import has_state, load_state, read_metrics
from tavt_kit.distill.trainer import Judge, Loop, Trainer
from tavt_kit.errors import CheckpointError, OutputError, TrainingError
from tavt_kit.models.wrap import AdaptiveViT
from tests.parameters import few

Make = Callable[..., AdaptiveViT]
SETTINGS = OptimizerOptions(steps=6, batch=4, lr=1e-3, warmup=2, freeze=1)
RUNNING = TrainingOptions(precision="f32")


class Interrupting(Silent):
    """Sends Ctrl-C after so many steps."""

    def __init__(self, after: int, number: signal.Signals = signal.SIGINT) -> None:
        self.left, self.number = after, number

    def advance(self, units: int = 1, **values: float) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def split(images: ImageSet) -> ImageSplit:
    return read_images(images.split("train"), Preprocessing((64, 64)), DataOptions(augment=("flip", "shift")))


def with_dropout(model: AdaptiveViT) -> AdaptiveViT:
    """Randomness inside the model, too."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    return model


def go(
    make_model: Make,
    split: ImageSplit,
    folder: Path,
    settings: OptimizerOptions = SETTINGS,
    *,
    running: TrainingOptions = RUNNING,
    judge: Judge | None = None,
    watcher: Silent | None = None,
    save_seconds: float = 60.0,
    change: Callable[[Step], Step] = lambda step: step,
) -> tuple[dict[str, Tensor], Loop]:
    """A distillation of a fresh model, as a new process would do it."""
    model = with_dropout(make_model())
    recipe = DistillRecipe(bound=0.4, sub_networks=1, layer_dropout=0.1, optimisation=settings)
    step, _ = _prepare(model, recipe)
    folder.mkdir(exist_ok=True)
    done = Trainer(
        model, split, change(step), settings, running, folder,
        seed=0, progress=watcher or Silent(), what="distill", save_seconds=save_seconds, judge=judge,
    ).run()  # fmt: skip
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, done


def newest(folder: Path) -> dict[str, Any]:
    """The newest state."""
    state = load_state(folder)
    assert state is not None
    return state


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def without_speed(folder: Path) -> list[dict[str, float]]:
    return [
        {k: v for k, v in line.items() if k not in ("images_per_second", "seconds_waiting")}
        for line in read_metrics(folder)
    ]


@pytest.mark.parametrize(("precision", "optimiser"), few([("f32", "sgd"), ("bf16", "adamw")], ("f32", "sgd")))
def test_interrupted_and_continued_gives_the_same_bits(
    make_model: Make, split: ImageSplit, tmp_path: Path, precision: str, optimiser: str
) -> None:
    settings, running = replace(SETTINGS, optimiser=optimiser), TrainingOptions(precision=precision)
    torch.manual_seed(1)
    straight, loop = go(make_model, split, tmp_path / "straight", settings, running=running)
    torch.manual_seed(2)  # nothing may depend on what the process drew before
    for steps in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            go(make_model, split, tmp_path / "broken", settings, running=running, watcher=Interrupting(steps))
    torch.randn(3)
    broken, _ = go(make_model, split, tmp_path / "broken", settings, running=running)
    assert_equal(broken, straight)
    assert without_speed(tmp_path / "broken") == without_speed(tmp_path / "straight")
    assert [line["step"] for line in read_metrics(tmp_path / "broken")] == [1, 2, 3, 4, 5, 6]
    assert loop.steps == 6 and loop.seconds > 0 and loop.seconds_per_step is not None


def test_steps_that_were_done_but_not_saved_are_done_again(make_model: Make, split: ImageSplit, tmp_path: Path) -> None:
    straight, _ = go(make_model, split, tmp_path / "straight")

    class Killed(BaseException):
        pass

    def dying(step: Step) -> Step:
        def dies(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            if len(read_metrics(tmp_path / "broken")) == 4:
                raise Killed
            return step(batch, draws, backward)

        return dies

    with pytest.raises(KeyboardInterrupt):
        go(make_model, split, tmp_path / "broken", watcher=Interrupting(2))
    with pytest.raises(Killed):
        go(make_model, split, tmp_path / "broken", change=dying)
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    broken, _ = go(make_model, split, tmp_path / "broken")
    assert_equal(broken, straight)
    assert without_speed(tmp_path / "broken") == without_speed(tmp_path / "straight")


def test_a_finished_loop_does_nothing_more(make_model: Make, split: ImageSplit, tmp_path: Path) -> None:
    first, _ = go(make_model, split, tmp_path / "run")
    again, loop = go(make_model, split, tmp_path / "run")
    assert_equal(first, again)
    assert loop.seconds_per_step is None and loop.loss is None and loop.seconds > 0


def test_another_seed_trains_otherwise_and_torchs_stream_is_left_alone(
    make_model: Make, split: ImageSplit, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    model = make_model()
    step, _ = _prepare(model, DistillRecipe(optimisation=SETTINGS))
    Trainer(model, split, step, SETTINGS, RUNNING, tmp_path, seed=1, progress=Silent(), what="distill").run()
    assert torch.equal(torch.randn(3), expected)
    zero, _ = go(make_model, split, tmp_path / "zero")
    assert any(not torch.equal(tensor, zero[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_and_names_the_images(
    make_model: Make, split: ImageSplit, tmp_path: Path, value: float
) -> None:
    seen: list[int] = []

    def poisoned(step: Step) -> Step:
        def steps(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
            seen.append(1)
            return {**step(batch, draws, backward), **({"loss": torch.tensor(value)} if len(seen) == 3 else {})}

        return steps

    with pytest.raises(TrainingError) as stopped:
        go(make_model, split, tmp_path, change=poisoned, save_seconds=0.0)
    said = str(stopped.value)
    assert "step 3" in said and "`lr`" in said
    assert sum(name in said for name in split.names) == 4
    assert newest(tmp_path)["step"] == 2 and len(read_metrics(tmp_path)) == 2


def test_gradients_that_are_not_finite_stop_before_the_weights_move(
    make_model: Make, split: ImageSplit, tmp_path: Path
) -> None:
    split.pixels[:] = 0
    model = make_model()
    bias = dict(model.named_parameters())["head.bias"]

    def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        bias.grad = torch.full_like(bias, float("nan"))
        return {"loss": torch.tensor(1.0)}

    before = bias.detach().clone()
    with pytest.raises(TrainingError, match="gradient norm nan"):
        Trainer(model, split, step, SETTINGS, RUNNING, tmp_path, seed=0, progress=Silent(), what="x").run()
    assert torch.equal(bias, before)


def test_gradients_are_clipped_and_the_rate_follows_its_schedule(
    make_model: Make, split: ImageSplit, tmp_path: Path
) -> None:
    settings = OptimizerOptions(
        steps=4, batch=4, lr=1.0, warmup=2, decay="linear", optimiser="sgd", momentum=0.0, clip=1e-3,
        weight_decay=0.0, freeze=0,
    )  # fmt: skip
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    go(lambda: model, split, tmp_path, settings)
    moved = sum((t - before[name]).square().sum() for name, t in model.state_dict().items()) ** 0.5
    assert 0 < moved <= 1e-3 * (0.5 + 1.0 + 0.5 + 0.0) + 1e-6
    assert [line["lr"] for line in read_metrics(tmp_path)] == [0.5, 1.0, 0.5, 0.0]


DAMAGES = ("truncated", "pickled", "other model", "other version")


@pytest.mark.parametrize("damage", few(DAMAGES, "pickled", "other model"))
def test_a_state_that_cannot_be_continued_is_refused(
    make_model: Make, split: ImageSplit, tmp_path: Path, damage: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(make_model, split, tmp_path, watcher=Interrupting(2))
    file = tmp_path / "state" / "step-00000002.pt"
    content = torch.load(file, weights_only=True)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "pickled":
        torch.save({**content, "evil": nn.Linear(1, 1)}, file)
    elif damage == "other version":
        torch.save({**content, "version": 0}, file)
    else:
        del content["model"]["norm.weight"]
        torch.save(content, file)
    with pytest.raises(CheckpointError, match="`fresh`"):
        go(make_model, split, tmp_path)


def test_sigterm_saves_like_ctrl_c_and_a_second_one_does_not_wait(
    make_model: Make, split: ImageSplit, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        go(make_model, split, tmp_path, watcher=Interrupting(1, signal.SIGTERM))
    assert has_state(tmp_path) and signal.getsignal(signal.SIGTERM) is before

    class Twice(Silent):
        def advance(self, units: int = 1, **values: float) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(make_model, split, tmp_path, watcher=Twice())
    assert newest(tmp_path)["step"] == 1


def test_a_place_that_cannot_be_written_is_a_sentence(make_model: Make, split: ImageSplit, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(OutputError):
        go(make_model, split, tmp_path)

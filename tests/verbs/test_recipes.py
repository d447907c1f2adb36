"""Every published recipe through the command line, on tiny models of its own family, from official weights."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tavt_kit.checkpoints import load_model
from tavt_kit.core.model_card import read_card
from tavt_kit.core.progress import Silent
from tavt_kit.data import load_images
from tavt_kit.distill import train, train_recipe
from tavt_kit.distill.recipes import recipe_names
from tavt_kit.distill.run_folder import read_metrics
from tests.parameters import few
from tests.parity.official import official_state
from tests.verbs.command import run
from tests.verbs.test_train import draw
from tests.verbs.tiny import write_run

CASES = {
    "tavt-cub": ("tavt_forward_a", ("--heads", 4), 0.05, 12),
    "ffvt-cub": ("ffvt_forward_a", ("--heads", 4, "--num-token", 3), 0.05, 12),
    "transfg-cub": ("transfg_overlap", ("--heads", 4, "--slide-step", 6, "--image-size", 44), 0.05, 12),
    "mixvit-cub": ("mixvit_pure_a", ("--heads", 4), 0.05, 12),
    "mixvit-cotton": ("mixvit_hybrid_a", ("--heads", 4, "--image-size", 96), 0.02, 32),
    "pim-cub": ("pim_vit_a", ("--heads", 4, "--num-selects", "20,16,16,12"), 0.01, 12),
    "vitae-imagenet": ("vitae_tiny", ("--image-size", 64), 0.05, 12),
    "vitaev2-s": ("vitaev2_s", ("--image-size", 64), 0.05, 12),
}
"""Recipe -> golden file, or ViTAE of an official size, whose weights it starts from, what its keys do not tell, a
learning rate and few steps."""


PLAIN = """
base = "{}"
{smooth}
drop_path = 0.0
dropout = 0.0
interpolation = "bilinear"
image_size = {size}
resize = [{size}, {size}]
crop = "none"
augment = []
auto_augment = "none"
color_jitter = []
blur = 0.0
sharpness = 0.0
erasing = 0.0
mixup = 0.0
cutmix = 0.0
ema = "none"
"""
"""Nothing random but the order of the images, so that few steps show whether anything is learnt."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "colours", each=10)


def converted(reference: Path, name: str, flags: tuple[object, ...], place: Path) -> int:
    """Official weights as a run; pixels a side of its images."""
    official = place.with_suffix(".bin")
    torch.save({"model": official_state(reference, name)}, official)
    assert run("convert", official, "-o", place, *flags) == 0
    return int(read_card(place).preprocessing["image_size"][0])


@pytest.mark.parametrize("recipe", few(CASES, "ffvt-cub"))
def test_the_loss_of_a_family_falls(recipe: str, images: Path, reference: Path, tmp_path: Path) -> None:
    name, flags, rate, steps = CASES[recipe]
    place, out = tmp_path / "run", tmp_path / "out"
    size = converted(reference, name, flags, place)
    (tmp_path / "plain.toml").write_text(
        PLAIN.format(recipe, smooth="" if recipe == "pim-cub" else "smoothing = 0.0", size=size)
    )
    short = ("--steps", steps, "--batch", 8, "--warmup", 2, "--lr", rate, "--precision", "f32")
    assert run("train", place, "--recipe", tmp_path / "plain.toml", "--data", images, "-o", out, *short) == 0
    lines = read_metrics(out)
    for term in ("loss", "cross_entropy", "combined"):
        values = [line[term] for line in lines if term in line]
        assert sum(values[-4:]) <= 0.8 * sum(values[:4]), term
    assert load_model(out).card.provenance.endswith("by the recipe plain on colours")


FAMILY = {"vit": "tavt-cub", "ffvt": "ffvt-cub", "transfg": "transfg-cub", "mixvit_hybrid": "mixvit-cotton",
          "pim": "pim-cub", "vitae": "vitae-imagenet", "vitaev2": "vitaev2-s"}  # fmt: skip
"""Family of models -> its case above."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_runs_as_it_is(recipe: str, images: Path, reference: Path, tmp_path: Path) -> None:
    """A step of each, with all that it does to images; but for the size, and the batch that little data allows."""
    family = train_recipe(recipe).family or "vit"
    name, flags, _, _ = CASES[FAMILY[family]]
    place, out = tmp_path / "run", tmp_path / "out"
    size = converted(reference, name, flags, place)
    short = ("--steps", 1, "--batch", 8, "--lr-batch", 8, "--warmup", 0, "--image-size", size)
    assert run("train", place, "--recipe", recipe, "--data", images, "-o", out, *short) == 0
    assert json.loads((out / "run.json").read_text())["asked"]["recipe"] == recipe


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("vit") / "run", classes=("blue", "green", "red"))


@pytest.mark.slow
def test_a_training_branch_is_in_the_state_and_not_in_the_model(vit: Path, images: Path, tmp_path: Path) -> None:
    """Interrupted and continued, the branch included, to the bit."""
    short = {"steps": 6, "batch": 6, "warmup": 1, "lr": 0.01, "image_size": 32, "precision": "f32"}
    recipe = train_recipe("mixvit-cub", **short)
    images = load_images(str(images))

    class Interrupting(Silent):
        def advance(self, units: int = 1, **values: float) -> None:
            if "loss" in values and values["loss"] and not (tmp_path / "broken" / "state").exists():
                os.kill(os.getpid(), signal.SIGINT)

    train(load_model(vit), images, tmp_path / "straight", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(load_model(vit), images, tmp_path / "broken", recipe, progress=Interrupting())
    (state,) = (tmp_path / "broken" / "state").glob("*.pt")
    saved = torch.load(state, weights_only=True)["model"]
    assert saved["training_branch.mask_head.weight"].shape == (18, 24)
    train(load_model(vit), images, tmp_path / "broken", recipe)
    first, second = (safe_open(tmp_path / name / "model.safetensors", "pt") for name in ("straight", "broken"))
    assert set(first.keys()) == set(load_model(vit).state_dict())
    assert all(torch.equal(first.get_tensor(name), second.get_tensor(name)) for name in first.keys())


def test_what_was_asked_is_written_in_full(vit: Path, images: Path, tmp_path: Path) -> None:
    """Every flag over the recipe, nothing left open; the same again does nothing, another recipe is refused."""
    flags = (
        "--epochs", 2, "--batch", 6, "--warmup-epochs", 1, "--layer-decay", 0.5, "--drop-path", 0.2, "--clip", "none",
        "--smoothing", 0.1, "--class-weights", "balanced", "--loss-weight", "cross_entropy=2", "--lr-scale", "head=3",
        "--optimiser", "sgd", "--nesterov", "--final-lr", 1e-6, "--precision", "f32", "--probe", "--blocks", "all",
    )  # fmt: skip
    command = ("train", vit, "--recipe", "finetune", "--data", images, "-o", tmp_path, *flags)
    assert run(*command) == 0
    asked = json.loads((tmp_path / "run.json").read_text())["asked"]
    expected = {
        "recipe": "finetune", "epochs": 2.0, "steps": 6, "warmup": 3, "batch": 6, "layer_decay": 0.5, "drop_path": 0.2,
        "clip": None, "smoothing": 0.1, "class_weights": "balanced", "loss_weights": {"cross_entropy": 2.0},
        "lr_scale": {"head": 3.0}, "optimiser": "sgd", "nesterov": True, "final_lr": 1e-6, "precision": "f32",
        "blocks": "all", "freeze": 0, "lr": 3e-5, "momentum": 0.9, "augment": ["flip"], "loss": "cross_entropy",
    }  # fmt: skip
    assert {name: asked[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--recipe", "ffvt-cub"),
            "the recipe ffvt-cub is for ffvt, but the model is vit",
        ),
        (("--recipe", "ffvt-cup"), "did you mean ffvt-cub"),
        (("--recipe", "{file}"), "has no learning_rate"),
        (("--recipe", "{size}"), "evaluation of a recipe has crop_pct, "),
        (("--recipe", "{pct}"), "crop_pct must be above 0"),
        (("--recipe", "tavt-cub", "--steps", "100"), "0 to 100 steps (all of them), got --warmup 500"),
        (("--recipe", "tavt-cub", "--batch", "64"), "1 to 18 images"),
        (("--recipe", "tavt-cub", "--batch", "0"), "--batch must be at least 1, got 0"),
        (("--recipe", "tavt-cub", "--lr", "nan"), "--lr is a finite number, got nan"),
        (("--recipe", "modern", "--loss", "pim", "--smoothing", "0"), "mixup and cutmix"),
        (("--recipe", "finetune", "--loss", "pim"), "the loss pim is for PIM"),
        (("--recipe", "finetune", "--loss-weight", "mask"), "NAME=NUMBER"),
        (("--recipe", "finetune", "--loss-weight", "mask=1"), "has the terms cross_entropy"),
        (("--recipe", "finetune", "--clip", "much"), "--clip is a number, or none, got 'much'"),
        (("--recipe", "finetune", "--blocks", "9"), "1 to 4 of the model's blocks"),
        (("--recipe", "finetune", "--lr-scale", "nose=2"), "begins with nose"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: tuple[str, ...], said: str, vit: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text("learning_rate = 1")
    (tmp_path / "size.toml").write_text('base = "modern"\nevaluation = { image_size = 64 }')
    (tmp_path / "pct.toml").write_text('base = "modern"\nevaluation = { crop_pct = 0.0 }')
    files = {"file": tmp_path / "mine.toml", "size": tmp_path / "size.toml", "pct": tmp_path / "pct.toml"}
    filled = [flag.format(**files) for flag in flags]
    size = () if "finetune" in filled else ("--image-size", 32)
    assert run("train", vit, "--data", images, "-o", tmp_path / "out", *filled, *size) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_another_recipe_is_refused_with_what_differs(
    vit: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("train", vit, "--data", images, "-o", tmp_path, "--steps", 2, "--batch", 4, "--precision", "f32")
    assert run(*short, "--recipe", "finetune") == 0
    capsys.readouterr()
    assert run(*short, "--recipe", "finetune", "--lr", 0.1, "--loss", "contrastive") == 2
    said = capsys.readouterr().err
    assert "lr 3e-05 (now 0.1)" in said and "loss cross_entropy (now contrastive)" in said and said.count("\n") == 1


def test_a_class_of_one_image_trains(vit: Path, tmp_path: Path) -> None:
    """It goes to training, and balanced weights make it count as any other class."""
    folder = draw(tmp_path / "colours", each=6)
    for file in sorted((folder / "red").iterdir())[1:]:
        file.unlink()
    short = ("--steps", 2, "--batch", 4, "--class-weights", "balanced", "--precision", "f32", "-o", tmp_path / "out")
    assert run("train", vit, "--data", folder, "--recipe", "finetune", *short) == 0


def test_the_modern_recipe_runs_on_small_data(vit: Path, images: Path, tmp_path: Path) -> None:
    short = ("--epochs", 2, "--batch", 6, "--precision", "f32", "-o", tmp_path, "--json")
    assert run("train", vit, "--data", images, "--recipe", "modern", *short) == 0
    asked = json.loads((tmp_path / "run.json").read_text())["asked"]
    assert (asked["steps"], asked["layer_decay"], asked["optimiser"], asked["blocks"]) == (6, 0.75, "adamw", "all")

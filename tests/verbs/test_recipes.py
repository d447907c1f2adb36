"""Every published recipe through the command line, on tiny models of its own family, from official weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tavt_kit import cli
from tavt_kit.checkpoints import load_model
from tavt_kit.distill.metrics import read_metrics
from tavt_kit.model_card import read_card
from tests.parity.official import load, state_of
from tests.verbs.test_train import draw

CASES = {
    "tavt-cub": ("tavt_forward_a", ("--heads", 4), 0.05, 12),
    "ffvt-cub": ("ffvt_forward_a", ("--heads", 4, "--num-token", 3), 0.05, 12),
    "transfg-cub": ("transfg_overlap", ("--heads", 4, "--slide-step", 6, "--image-size", 44), 0.05, 12),
    "mixvit-cub": ("mixvit_pure_a", ("--heads", 4), 0.05, 12),
    "mixvit-cotton": ("mixvit_hybrid_a", ("--heads", 4, "--image-size", 96), 0.02, 24),
    "pim-cub": ("pim_vit_a", ("--heads", 4, "--num-selects", "20,16,16,12"), 0.01, 12),
    "vitae-imagenet": ("vitae_v1_performer", ("--heads", "1,1,4,1,1,1", "--image-size", 64), 0.05, 12),
    "vitaev2-s": ("vitae_v2_window", ("--heads", "1,2,4,8,1,1,2,4", "--image-size", 96), 0.05, 12),
}
"""Recipe -> golden file whose weights it starts from, what its keys do not tell, a learning rate and few steps."""


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


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
"""Nothing random but the order of the pictures, so that few steps show whether anything is learnt."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "colours", each=10)


@pytest.mark.parametrize("recipe", CASES)
def test_the_loss_of_a_family_falls(recipe: str, pictures: Path, reference: Path, tmp_path: Path) -> None:
    name, flags, rate, steps = CASES[recipe]
    torch.save({"model": state_of(load(reference, name)[0])}, tmp_path / "official.bin")
    place, out = tmp_path / "run", tmp_path / "out"
    assert run("convert", tmp_path / "official.bin", "-o", place, *flags) == 0
    size = read_card(place).preprocessing["image_size"][0]
    (tmp_path / "plain.toml").write_text(
        PLAIN.format(recipe, smooth="" if recipe == "pim-cub" else "smoothing = 0.0", size=size)
    )
    few = ("--steps", steps, "--batch", 8, "--warmup", 2, "--lr", rate, "--precision", "f32")
    assert run("train", place, "--recipe", tmp_path / "plain.toml", "--data", pictures, "-o", out, *few) == 0
    lines = read_metrics(out)
    for term in ("loss", "cross_entropy", "combined"):
        values = [line[term] for line in lines if term in line]
        assert sum(values[-4:]) <= 0.8 * sum(values[:4]), term
    assert load_model(out).card.provenance.endswith("by the recipe plain on colours")

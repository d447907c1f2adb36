"""Recipes by name and from files: every one can be read, and what cannot be is refused in a sentence."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.options import LOSSES, Objective
from tavt_kit.distill.recipes import TrainRecipe, changed, distill_recipe, names_of, recipe_names, train_recipe
from tavt_kit.errors import TrainingError, UnknownName

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = tuple(name for name in recipe_names() if name not in ("probe", "finetune", "modern"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_whole_sourced_and_in_the_docs(name: str) -> None:
    recipe = train_recipe(name)
    assert recipe.name == name and recipe.family is not None and recipe.image_size and recipe.blocks == "all"
    text = (ROOT / "distill" / "presets" / f"{name}.toml").read_text()
    assert text.startswith("# ")
    evaluation = Preprocessing((recipe.image_size,) * 2).as_record() | recipe.evaluation
    read = Preprocessing.from_record(evaluation)
    if recipe.reading.resize is not None:  # squashed to one size for training and test
        assert recipe.reading.crop == "random" and read.crop_mode == "squash"
        assert recipe.reading.resize == (round(recipe.image_size / read.crop_pct),) * 2
    assert f"`{name}`" in (ROOT / "docs" / "recipes.md").read_text()


def test_numbers_of_the_published_recipes() -> None:
    """Some of each, as the systems' scripts have them."""
    expected = {
        "tavt-cub": ("sgd", 3e-2, 64, 10000, "cosine", 0.0),
        "tavt-inat2017": ("sgd", 3e-2, 64, 10000, "cosine", 0.0),
        "transfg-cars": ("sgd", 3e-2, 64, 10000, "cosine", 0.0),
        "ffvt-cotton": ("sgd", 2e-2, 32, 2000, "cosine", 0.0),
        "ffvt-soyloc": ("sgd", 2e-2, 32, 4750, "cosine", 0.0),
        "ffvt-dogs": ("sgd", 3e-3, 16, 30000, "linear", 0.0),
        "mixvit-cotton": ("sgd", 5e-3, 32, 2400, "linear", 1e-4),
        "mixvit-soyloc": ("sgd", 5e-3, 32, 9500, "linear", 5e-5),
        "mixvit-cub": ("sgd", 2e-2, 16, 10000, "cosine", 5e-5),
        "mixvit-soyglobal": ("sgd", 2e-2, 16, 72600, "linear", 5e-5),
        "mixvit-afd": ("sgd", 2e-2, 8, 4300, "cosine", 5e-5),
    }
    for name, (optimiser, lr, batch, steps, decay, weight_decay) in expected.items():
        how = train_recipe(name).optimisation
        assert (how.optimiser, how.lr, how.batch, how.steps, how.decay, how.weight_decay) == (
            optimiser, lr, batch, steps, decay, weight_decay
        ), name  # fmt: skip
        assert (how.warmup, how.clip, how.momentum, how.nesterov) == (500, 1.0, 0.9, False)
    assert train_recipe("mixvit-soyageing-r1").objective.weights["mask_class"] == 0.0
    assert train_recipe("mixvit-soyloc").objective.weights["mask"] == 0.0
    assert train_recipe("pim-cub").optimisation.settled(images=5994, freeze=0).steps == 50 * (5994 // 32)
    second = train_recipe("vitaev2-b", batch=1024).optimisation.settled(images=1281167, freeze=0)
    assert (second.steps, second.warmup, second.lr, second.clip) == (310 * 1251, 10 * 1251, 1e-3, 5.0)
    rate = second.learning_rate()
    assert rate.at(0) == 1e-6 and rate.at(10 * 1251) == 1e-3
    assert rate.at(299 * 1251) > rate.at(300 * 1251) == rate.at(second.steps) == pytest.approx(1e-5)


def test_flags_replace_what_a_recipe_says_in_whatever_way() -> None:
    recipe = train_recipe("vitae-imagenet", steps=9, warmup=2, clip=3.0, loss_weights={"cross_entropy": 2.0})
    how = recipe.optimisation.settled(images=1000, freeze=0)
    assert (how.steps, how.warmup, how.clip) == (9, 2, 3.0) and recipe.objective.weights == {"cross_entropy": 2.0}
    assert train_recipe("tavt-cub", epochs=2, batch=10, warmup=3).optimisation.settled(images=99, freeze=0).steps == 18
    assert train_recipe("tavt-cub", clip="none", auto_augment="none").optimisation.clip is None
    mixed = train_recipe("mixvit-cotton", loss_weights={"mask": 1.0})
    assert mixed.objective.weights == {"cross_entropy": 1.0, "mask": 1.0, "mask_class": 1.0, "shaping": 0.5}
    assert train_recipe("transfg-cub", loss="cross_entropy").objective.weights == {"cross_entropy": 1.0}
    assert train_recipe("tavt-cub", image_size=224).reading.resize == (300, 300)
    assert train_recipe("tavt-cub", image_size=224, resize=[256, 256]).reading.resize == (256, 256)
    assert train_recipe("tavt-cub", color_jitter=0.2).reading.color_jitter == (0.2, 0.2, 0.2)
    assert train_recipe("tavt-cub", color_jitter=[0.2]).reading.color_jitter == (0.2,)
    assert train_recipe("tavt-cub", seed=None, lr=None) == train_recipe("tavt-cub")


def test_a_file_starts_from_another_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "ffvt-cub"\nlr = 0.5\nepochs = 3\n[evaluation]\ncrop_pct = 1\n')
    mine, base = train_recipe(str(tmp_path / "mine.toml")), train_recipe("ffvt-cub")
    assert (mine.name, mine.optimisation.lr, mine.optimisation.epochs) == ("mine", 0.5, 3)
    assert mine.reading == base.reading and mine.evaluation == {**base.evaluation, "crop_pct": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr = 0", "learning rate must be above 0"),
        ('lr = "fast"', "lr of a recipe must be a number, got 'fast'"),
        ("steps = true", "steps of a recipe must be a whole number, got True"),
        ("learning_rate = 1", "has no learning_rate"),
        ("smothing = 0.1", "did you mean smoothing"),
        ("seed = 3", "sets seed"),
        ('base = "tavt-cup"', "did you mean tavt-cub"),
        ("base = 3", "name of another"),
        ('loss = "mse"', "cross_entropy, contrastive"),
        ('loss = "pim"\nsmoothing = 0.1', "lacks"),
        ("loss_weights = { mask = 1.0 }", "has the terms cross_entropy, got 'mask'"),
        ("loss_weights = { cross_entropy = -1.0 }", "at least 0"),
        ("loss_weights = { cross_entropy = 0.0 }", "at least one term"),
        ('loss = "contrastive"\nmixup = 0.5', "reads whole labels"),
        ('optimiser = "lion"', "adamw, sgd"),
        ("nesterov = true", "SGD with momentum"),
        ("warmup = 500", "warm-up must last 0 to 300"),
        ("epochs = 0", "`epochs` must be above 0, got 0"),
        ("layer_decay = 1.5", "`layer_decay` must be above 0 and at most 1, got 1.5"),
        ("drop_path = 1.0", "below 1"),
        ("blocks = -1", "from 0 on, or all"),
        ("probe = false", "trains no blocks"),
        ('family = "resnet"', "`family` must be one of vit, ffvt"),
        ("final_lr = 1.0", "starts and ends between"),
        ('augment = "flip"', "augment of a recipe must be a list of texts, got 'flip'"),
        ("resize = [600]", "a whole number or two whole numbers or none"),
        ("scale = [0.1]", "scale of a recipe must be two numbers"),
        ("a = [", "not a TOML file"),
    ],
)
def test_a_bad_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises((TrainingError, UnknownName)) as refused:
        train_recipe(str(file))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_recipes_in_a_circle_and_files_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'base = "{file}"')
    with pytest.raises(TrainingError, match="in a circle"):
        train_recipe(str(file))
    with pytest.raises(TrainingError, match="cannot read the recipe"):
        train_recipe(str(tmp_path / "absent.toml"))
    with pytest.raises(UnknownName, match="ffvt-cub, .*or a TOML file, got 'magic'"):
        train_recipe("magic")


def test_every_value_has_one_name_and_is_recorded() -> None:
    recipe = train_recipe("modern", schedule="taper:0.2")
    names = names_of(recipe)
    assert len(set(names)) == len(names)
    left_out = {"name", "family", "image_size", "workers"}
    assert set(recipe.as_record()) == ({*names} - left_out) | {"recipe"}
    with pytest.raises(TrainingError, match="did you mean steps"):
        changed(TrainRecipe(), {"step": 3})


def test_every_loss_has_its_terms() -> None:
    for loss in LOSSES:
        assert Objective(loss).weights == LOSSES[loss] and Objective(loss).settled() == Objective(loss, LOSSES[loss])
    assert {f.name for f in fields(Objective)} <= set(names_of(TrainRecipe()))


def test_what_would_be_passed_over_is_refused() -> None:
    with pytest.raises(TrainingError, match="`epochs=1`.*`steps=3`"):
        train_recipe("finetune", epochs=1, steps=3)
    with pytest.raises(TrainingError, match="`epochs=1`.*`steps=3`"):
        distill_recipe("modern", epochs=1, steps=3)
    with pytest.raises(UnknownName, match="'mX'"):
        train_recipe("finetune", auto_augment="rand-mX")

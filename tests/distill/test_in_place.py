from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tavt_kit.checkpoints import load_model
from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, read_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill import DistillRecipe, distill, distill_recipe, train
from tavt_kit.distill.common import evaluate_sweep, schedule_sweep
from tavt_kit.distill.datasets import read_images
from tavt_kit.distill.options import OptimizerOptions, TrainingOptions
from tavt_kit.distill.run_folder import read_metrics, read_run_record
from tavt_kit.errors import DataError, TrainingError, UnknownName
from tavt_kit.models.flops import count_macs
from tavt_kit.models.wrap import AdaptiveViT

Make = Callable[..., AdaptiveViT]
FEW = {"steps": 4, "batch": 4, "lr": 1e-3, "precision": "f32"}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, coloured_folder: Path) -> Path:
    from tavt_kit.checkpoints import open_model
    from tavt_kit.data import load_images

    images = load_images(str(coloured_folder))
    model = open_model("test_vit", weights="random", classes=images.classes, image_size=64)
    folder = tmp_path_factory.mktemp("runs") / "probe"
    train(model, images, folder)
    return folder


@pytest.mark.slow
def test_a_run_holds_all_that_later_verbs_need(probed: Path, images: ImageSet, tmp_path: Path) -> None:
    record = distill(load_model(probed), images, tmp_path, distill_recipe(**FEW))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", "split.json", "metrics.jsonl", "model.safetensors", "model.json"}
    assert record == {k: v for k, v in read_run_record(tmp_path).items() if k not in ("schema", "version")}
    results = record["results"]
    assert [entry["name"] for entry in results["after"]] == list(schedule_sweep(load_model(probed)))
    assert len(read_metrics(tmp_path)) == 4 and read_split(tmp_path).sha256 == images.sha256
    model = load_model(tmp_path)
    assert "distilled in place" in model.require_card().provenance and "colours" in model.card.provenance
    # The recorded figures are those of the saved weights.
    val = read_images(images.split("val"), Preprocessing((64, 64)))
    for entry, point in zip(results["after"], evaluate_sweep(model, val, schedule_sweep(model)), strict=True):
        assert Accuracy.from_record(entry["accuracy"]) == point.accuracy
        assert entry["macs"] == count_macs(model, TokenSchedule(tuple(entry["schedule"])))
    assert results["val"] == results["after"][0]["accuracy"]
    for old, new in zip(results["before"], results["after"], strict=True):
        change = new["accuracy"]["value"] - old["accuracy"]["value"]
        assert new["difference"]["difference"] == pytest.approx(change)
        assert new["difference"]["n"] == new["accuracy"]["n"] == len(images.split("val"))


@pytest.mark.slow
def test_the_same_call_again_does_nothing_and_another_recipe_is_refused(
    probed: Path, images: ImageSet, tmp_path: Path
) -> None:
    first = distill(load_model(probed), images, tmp_path, distill_recipe(**FEW))
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert distill(load_model(probed), images, tmp_path, distill_recipe(**FEW)) == first
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(TrainingError, match=r"bound 0.4 \(now 0.5\)"):
        distill(load_model(probed), images, tmp_path, distill_recipe(**FEW, bound=0.5))
    other = load_model(probed)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(TrainingError, match="start_sha256"):
        distill(other, images, tmp_path, distill_recipe(**FEW))
    assert distill(load_model(probed), images, tmp_path, distill_recipe(**FEW, bound=0.5), fresh=True) != first


def test_two_runs_of_the_same_recipe_give_the_same_file(probed: Path, images: ImageSet, tmp_path: Path) -> None:
    for name in ("a", "b"):
        distill(load_model(probed), images, tmp_path / name, distill_recipe("tavt", **FEW))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    assert read_run_record(tmp_path / "a")["asked"]["layer_dropout"] == 0.2


def test_frozen_layers_keep_their_weights_and_the_others_move(probed: Path, images: ImageSet, tmp_path: Path) -> None:
    distill(load_model(probed), images, tmp_path, distill_recipe(**FEW, freeze=2))
    before, after = load_model(probed).state_dict(), load_model(tmp_path).state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("blocks.0.", "blocks.1.", "patch_embed", "pos_embed"))} <= same
    assert not any(name.startswith(("blocks.2.", "blocks.5.", "norm.", "head.")) for name in same)


def test_a_model_without_a_card_or_of_other_classes_is_refused(
    make_model: Make, images: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="2 classes.*3"):
        distill(make_model(("a", "b")), images, tmp_path)
    bare = AdaptiveViT(make_model().unwrap())
    with pytest.raises(DataError, match="no card"):
        distill(bare, images, tmp_path)


def test_recipes_are_values_that_flags_change(tmp_path: Path) -> None:
    assert distill_recipe() == DistillRecipe(
        kl="forward", optimisation=OptimizerOptions(lr=5e-5), running=TrainingOptions(ema=0.99)
    )
    tavt = distill_recipe("tavt", steps=7, bound=0.5, seed=None)
    assert (tavt.optimisation.optimiser, tavt.layer_dropout, tavt.sub_networks) == ("sgd", 0.2, 2)
    assert (tavt.optimisation.steps, tavt.bound, tavt.seed) == (7, 0.5, 0)
    record = tavt.as_record()
    assert record["recipe"] == "tavt" and record["lr"] == 3e-2 and record["augment"] == ["flip"]
    with pytest.raises(UnknownName, match="modern, tavt"):
        distill_recipe("magic")
    (tmp_path / "mine.toml").write_text('base = "tavt"\nbound = 0.3\nschedules = ["taper:0.2"]\n')
    mine = distill_recipe(str(tmp_path / "mine.toml"), lr=0.1)
    assert (mine.name, mine.bound, mine.layer_dropout, mine.optimisation.lr) == ("mine", 0.3, 0.2, 0.1)
    (tmp_path / "wrong.toml").write_text("smoothing = 0.1\n")
    with pytest.raises(TrainingError, match="wrong.toml cannot be used: a recipe has no smoothing"):
        distill_recipe(str(tmp_path / "wrong.toml"))
    for name, given in (("optimiser", "lion"), ("decay", "steps")):
        with pytest.raises(UnknownName, match=f"`{name}` must be one of .*, got '{given}'"):
            distill_recipe(**{name: given})
    for wrong in (
        {"lr": 0.0},
        {"steps": 0},
        {"batch": 0},
        {"clip": 0.0},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
    ):
        with pytest.raises(TrainingError):
            distill_recipe(**wrong)


def test_selection_is_by_the_mean_over_the_ladder(probed: Path, images: ImageSet, tmp_path: Path) -> None:
    record = distill(load_model(probed), images, tmp_path, distill_recipe(**FEW, evaluate_every=2))
    selected = record["results"]["loop"]["selected"]
    ladder = [entry["accuracy"]["value"] for entry in record["results"]["after"]]
    assert selected["value"] == pytest.approx(sum(ladder) / len(ladder)) and selected["metric"] == "top1"

"""One network for several image sizes: shared weights, a table resized in each pass, what each step learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tavt_kit.checkpoints import load_model, open_model
from tavt_kit.data import ImageSet, load_images
from tavt_kit.distill import distill, distill_recipe, train
from tavt_kit.distill.in_place import check_sizes, draw_size, full_size_logits, resize_images, share_weights
from tavt_kit.distill.sandwich import SandwichRule, sandwich_step
from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.contracts import zoo

FEW = {"steps": 6, "batch": 4, "lr": 1e-3, "precision": "f32", "freeze": 0, "sampling": "curve"}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, coloured_folder: Path) -> Path:
    images = load_images(str(coloured_folder))
    model = open_model("test_vit", weights="random", classes=images.classes, image_size=64)
    folder = tmp_path_factory.mktemp("runs") / "probe"
    train(model, images, folder)
    return folder


def pair(folder: Path, size: int = 48) -> tuple[AdaptiveViT, AdaptiveViT]:
    """A model at its own size, and at a smaller one with its weights."""
    model, twin = load_model(folder), load_model(folder, image_size=size)
    share_weights(model, twin)
    return model, twin


def test_a_twin_answers_as_the_run_loaded_at_its_size(probed: Path) -> None:
    model, twin = pair(probed)
    alone = load_model(probed, image_size=48)
    images = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(twin(images), alone(images))
        model.unwrap().get_parameter("pos_embed").mul_(2)
        model.unwrap().get_parameter("head.weight").mul_(3)
        assert not torch.allclose(twin(images), alone(images), atol=1e-3)
    assert {id(parameter) for parameter in twin.parameters()} < {id(parameter) for parameter in model.parameters()}


def test_gradients_of_a_smaller_size_reach_the_trained_weights_and_the_table(probed: Path) -> None:
    model, twin = pair(probed)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    targets = full_size_logits(model, images, 3)
    torch.testing.assert_close(targets, model.forward_lean(images).detach(), rtol=1e-4, atol=1e-5)
    small = resize_images(images, twin)
    assert small.shape == (4, 3, 48, 48)
    sub = twin.dense_schedule.taper(twin.layout, 0.3)
    for chunk in (None, 2):
        model.zero_grad()
        done = sandwich_step(twin, small, labels, [sub], rule=SandwichRule(chunk=chunk), targets=targets)
        table = model.unwrap().get_parameter("pos_embed").grad
        assert table is not None and table.abs().sum() > 0
        if chunk is None:
            whole, first = table.clone(), done
    torch.testing.assert_close(table, whole, rtol=1e-4, atol=1e-6)
    # Both networks are drawn to what the model says at full size.
    wanted = targets.log_softmax(1)
    apart = (done.logits[1].log_softmax(1).exp() * (done.logits[1].log_softmax(1) - wanted)).sum(1).mean()
    torch.testing.assert_close(first.divergences[0], apart, rtol=1e-4, atol=1e-6)
    forward = (wanted.exp() * (wanted - done.logits[0].log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(first.full["teacher"], forward, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_run_of_several_sizes(probed: Path, images: ImageSet, tmp_path: Path) -> None:
    model = load_model(probed)
    twins = [load_model(probed, image_size=size) for size in (48, 32)]
    record = distill(model, images, tmp_path / "both", distill_recipe(**FEW, image_sizes=(48, 32)), twins=twins)
    assert record["asked"]["image_sizes"] == [48, 32]
    names = [entry["name"] for entry in record["results"]["after"]]
    assert names[-2:] == ["dense at 48 px", "dense at 32 px"]
    assert load_model(tmp_path / "both").require_card().image_sizes == (48, 32)
    later = load_model(tmp_path / "both", image_size=48)
    shown = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(later(shown), twins[0](shown))
    again = load_model(probed)
    alone = distill(again, images, tmp_path / "one", distill_recipe(**FEW))
    assert "image_sizes" not in alone["asked"]
    moved = again.unwrap().get_parameter("head.weight") - model.unwrap().get_parameter("head.weight")
    assert moved.abs().max() > 0


def test_sizes_are_drawn_for_six_steps_in_ten_and_alike() -> None:
    twins = [wrap(zoo.build("plain")) for _ in range(2)]
    rng = np.random.default_rng(0)
    drawn = [draw_size(twins, rng) for _ in range(2000)]
    assert 750 < drawn.count(None) < 850
    assert 540 < sum(one is twins[0] for one in drawn) < 660
    before = rng.bit_generator.state
    assert draw_size([], rng) is None and rng.bit_generator.state == before


def test_what_cannot_be_shared_is_refused(probed: Path) -> None:
    model = load_model(probed)
    with pytest.raises(TrainingError, match="below the model's own 64x64, got 64x64"):
        check_sizes(model, [load_model(probed)])
    with pytest.raises(TrainingError, match="got 48x48, 48x48"):
        check_sizes(model, [load_model(probed, image_size=48)] * 2)
    small, large = (
        wrap(timm.create_model("beit_base_patch16_224", img_size=size, depth=2, embed_dim=24, num_heads=2))
        for size in (32, 48)
    )
    with pytest.raises(UnsupportedBackbone, match="depends on the image size"):
        share_weights(large, small)

"""Rollout against the paper's equation written out, and every family's own maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.looking import (
    Explained,
    Heat,
    Marked,
    attention_rollout,
    draw_explained,
    explain,
    heat_panel,
    kept_panel,
)
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap
from tests.contracts.pim_models import SWIN, small
from tests.contracts.zoo import ZOO, build, images
from tests.parameters import few


def test_rollout_is_the_product_of_the_papers_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(7, 7, generator=generator).softmax(1) for _ in range(3)]
    everyone = torch.arange(7)
    product = torch.eye(7)
    for attention in maps:
        product = (attention + torch.eye(7)) / 2 @ product  # already normalised: rows sum to 1
    weights = torch.eye(7)[0]
    found = attention_rollout([(attention, everyone) for attention in maps], everyone, weights, 7)
    torch.testing.assert_close(found, product[0])


def test_rollout_of_dropped_tokens_is_that_of_masked_rows() -> None:
    """Tokens 2 and 5 leave after the first layer: nobody reads them in the second."""
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(6, 6, generator=generator), torch.rand(4, 4, generator=generator)
    first, second = first / first.sum(1, keepdim=True), second / second.sum(1, keepdim=True)
    left = torch.tensor([0, 1, 3, 4])
    wide = torch.zeros(6, 6).index_put((left[:, None], left[None]), (second + torch.eye(4)) / 2)
    expected = (wide @ ((first + torch.eye(6)) / 2))[0]
    found = attention_rollout([(first, torch.arange(6)), (second, left)], left, torch.eye(4)[0], 6)
    torch.testing.assert_close(found, expected)
    assert found.sum().item() == pytest.approx(1) and found[2] > 0  # what it gave before it left


@pytest.mark.parametrize("kind", few(ZOO, "plain", "ffvt", "transfg", "pim", "vitae", "no_class_token"))
def test_every_family_is_explained_as_it_answers(kind: str) -> None:
    adaptive = wrap(build(kind))
    prefix, patches = adaptive.prefix, adaptive.tokens - adaptive.prefix
    adaptive.schedule = TokenSchedule(tuple(prefix + max(2, round(patches * s)) for s in (0.8, 0.8, 0.5, 0.5)))
    image = images(adaptive.bare, 1)[0]
    with torch.no_grad():
        logits, kept = adaptive.forward_kept(image[None])
    found = explain(adaptive, image)
    np.testing.assert_allclose(found.probabilities, logits[0].softmax(0).numpy(), atol=1e-5)
    assert found.label == int(logits.argmax())
    assert [mark.patches for mark in found.kept] == [
        tuple(int(p) - prefix for p in kept[layer][0] if p >= prefix) for layer in (0, 2)
    ]
    rollout = found.heats[0].values
    assert found.heats[0].name == "rollout" and rollout.shape == adaptive.grid and rollout.min() >= 0
    assert rollout.sum() <= 1 + 1e-5 and rollout.max() > np.median(rollout)
    if adaptive.prefix == 0:
        assert rollout.sum() == pytest.approx(1, abs=1e-4)
    image = Image.new("RGB", (64, 64), (90, 120, 60))
    assert draw_explained(image, found, "an image").width > 224


def test_pims_map_is_of_the_class_that_is_asked_for() -> None:
    adaptive = wrap(build("pim"))
    image = images(adaptive.bare, 1)[0]
    by_class = [explain(adaptive, image, label).heats[1].values for label in range(7)]
    assert by_class[0].shape == adaptive.grid and not np.allclose(by_class[0], by_class[1])
    np.testing.assert_allclose(sum(by_class), 1, atol=1e-5)  # probabilities at each place
    names = [f"bird {label}" for label in range(7)]
    assert explain(adaptive, image, 3, names).titles == ("attention rollout", "probability of bird 3")


def test_pims_levels_of_another_backbone_lie_on_the_finest_grid() -> None:
    adaptive = wrap(small(SWIN, num_classes=2))  # levels of 8 x 8, 4 x 4 and twice 2 x 2 places
    image = images(adaptive.bare, 1)[0]
    maps = [explain(adaptive, image, label).heats[-1].values for label in range(2)]
    assert maps[0].shape == (8, 8) and not np.allclose(maps[0], maps[1])
    np.testing.assert_allclose(sum(maps), 1, atol=1e-5)


def test_mix_vits_parts_share_out_every_place() -> None:
    model = timm.create_model(
        "mixvit_hybrid_r50", img_size=64, embed_dim=48, num_heads=3, mlp_dim=96, resnet_blocks=(1, 1, 1),
        resnet_width=32, num_classes=5,
    ).eval()  # fmt: skip
    found = explain(wrap(model), torch.randn(3, 64, 64))
    assert [heat.name for heat in found.heats] == [f"part-{i}" for i in range(5)]
    np.testing.assert_allclose(sum(heat.values for heat in found.heats), 1, atol=1e-5)


def test_the_largest_value_is_where_the_image_is_brightest() -> None:
    image = Image.new("RGB", (120, 60), (80, 80, 80))
    values = np.zeros((2, 4), dtype=np.float32)
    values[1, 3] = 0.01
    panel = np.asarray(heat_panel(image, Heat("h", "h", values))).sum(axis=2)
    row, column = np.unravel_index(panel.argmax(), panel.shape)
    assert row > 30 and column > 90


def test_kept_patches_lie_where_they_are() -> None:
    image = Image.new("RGB", (40, 20), (200, 100, 50))
    kept = np.asarray(kept_panel(image, Marked("k", "k", (5,)), (2, 4)))
    assert (kept[10:, 10:20] == (200, 100, 50)).all() and (kept[:10] < 60).all() and (kept[10:, :10] < 60).all()


def test_a_sheet_has_a_panel_for_each_thing_shown() -> None:
    heat = Heat(
        "rollout", "a title that is much longer than the panel is wide, so that it has to be cut", np.ones((2, 2))
    )
    marks = tuple(Marked(f"layer-{layer}", f"layer {layer}", (1,)) for layer in range(6))
    found = Explained(np.ones(3), 0, (2, 2), (heat,), marks)  # type: ignore[arg-type]
    sheet = draw_explained(Image.new("RGB", (30, 30)), found, "an image")
    assert sheet.size == (6 * 230 + 6, 2 * (224 + 26) + 6)  # eight panels, six a row


def test_logits_that_are_no_numbers_are_refused() -> None:
    bare = build("plain")
    bare.head.bias.data[0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(MeasurementError, match="not finite"):
        explain(wrap(bare), images(bare, 1)[0])

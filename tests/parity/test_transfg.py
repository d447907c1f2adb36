"""TransFG's official forward: every recorded quantity, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tavt_kit.checkpoints.official_vit import resize_positions
from tavt_kit.distill.options import Objective
from tavt_kit.models.backbones.fusion import TransFgBackbone, rollout_row
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.parity.official import aliased, assert_gradients, load, state_of, take_step, timm_from_official

pytestmark = pytest.mark.kind("transfg")
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def golden(reference: Path, name: str) -> tuple[AdaptiveViT, dict[str, Any], dict[str, Any], Tensor]:
    arrays, meta = load(reference, name)
    model = wrap(timm_from_official(state_of(arrays), meta["config"]))
    assert isinstance(model.backbone, TransFgBackbone)
    return model, arrays, meta, torch.from_numpy(arrays["input"])


def close(mine: Tensor, theirs: Any) -> None:
    torch.testing.assert_close(mine, torch.as_tensor(theirs), **TOLERANCE)


@torch.no_grad()
def test_rollout_parts_and_logits(golden: Any) -> None:
    model, arrays, _, x = golden
    before = model.advance(model.start(x), range(model.layers - 1), model.schedule.counts)
    row = rollout_row(before.notes["maps"], model.tokens).transpose(1, 2)  # (B, H, N)
    close(row[:, :, 1:], arrays["rollout_cls_row"])
    close(row[:, :, 1:].amax(2), arrays["part_value"])
    tokens, place = model.backbone.chosen(before)
    np.testing.assert_array_equal(place.numpy() - 1, arrays["part_index"])
    close(torch.cat([before.tokens[:, :1], tokens], dim=1), arrays["part_layer_input"])
    close(model.bare.forward_features(x), arrays["part_encoded"])
    for logits in (model.bare(x), model(x), model.forward_lean(x)):
        close(logits, arrays["logits"])


def test_losses_and_every_gradient_norm_of_the_step(golden: Any) -> None:
    model, arrays, meta, _ = golden
    plain = take_step(model, Objective("contrastive"), arrays)
    smoothed = take_step(model, Objective("contrastive", smoothing=meta["config"]["smoothing"]), arrays)
    for mine, name in ((plain["cross_entropy"], "ce"), (plain["contrastive"], "contrastive"),
                       (plain["loss"], "loss_total"), (smoothed["loss"], "loss_total_smoothing")):  # fmt: skip
        assert mine == pytest.approx(float(arrays[name]), rel=1e-5), name
    # The file's gradients are those of the smoothing variant.
    compared = assert_gradients(arrays, model.bare, aliased(state_of(arrays), "transfg", model.layers))
    assert compared == {key for key in arrays if "gradnorm/" in key}


def test_the_position_table_of_another_grid(reference: Path, name: str) -> None:
    arrays, _ = load(reference, name)
    if "google_input/pos_embedding" not in arrays:
        pytest.skip("no table recorded")
    table = torch.from_numpy(arrays["google_input/pos_embedding"])
    expected = torch.from_numpy(arrays["google_loaded/position_embeddings"])
    side = round((expected.shape[1] - 1) ** 0.5)
    torch.testing.assert_close(resize_positions(table, side), expected, atol=1e-6, rtol=0)

"""TransFG's official forward: every recorded quantity, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT, wrap
from tavt_kit.backbones.transfg import TransFgBackbone, rollout_row
from tavt_kit.checkpoints.official import resize_positions
from tavt_kit.distill.contrastive import contrastive_loss
from tests.parity.official import aliased, assert_gradients, load, state_of, timm_from_official

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


def losses(model: AdaptiveViT, x: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    features = model.bare.forward_features(x)[:, 0]  # type: ignore[operator]
    return F.cross_entropy(model.bare(x), labels, label_smoothing=smoothing), contrastive_loss(features, labels)


def test_losses_and_every_gradient_norm(golden: Any) -> None:
    model, arrays, meta, x = golden
    labels = torch.from_numpy(arrays["labels"])
    plain, contrastive = losses(model, x, labels, 0.0)
    smoothed, _ = losses(model, x, labels, meta["config"]["smoothing"])
    for mine, name in ((plain, "ce"), (contrastive, "contrastive"), (plain + contrastive, "loss_total"),
                       (smoothed + contrastive, "loss_total_smoothing")):  # fmt: skip
        torch.testing.assert_close(mine.detach(), torch.as_tensor(arrays[name]), atol=0, rtol=1e-5)
    model.zero_grad()
    (smoothed + contrastive).backward()  # of the smoothing variant, says the file
    compared = assert_gradients(arrays, model.bare, aliased(state_of(arrays), "transfg", model.layers))
    assert compared == {key for key in arrays if "gradnorm/" in key}


def test_the_position_table_of_another_grid(reference: Path, name: str) -> None:
    arrays, _ = load(reference, name)
    if "google_input/pos_embedding" not in arrays:
        pytest.skip("no table recorded")
    table = torch.from_numpy(arrays["google_input/pos_embedding"])
    expected = torch.from_numpy(arrays["google_loaded/position_embeddings"])
    side = round((expected.shape[1] - 1) ** 0.5)
    torch.testing.assert_close(resize_positions(table, side, "official"), expected, atol=1e-6, rtol=0)

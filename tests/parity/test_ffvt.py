"""FFVT's official forward and loader: every recorded quantity, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.checkpoints.official_vit import as_vit
from tavt_kit.distill.options import Objective
from tavt_kit.models.backbones.base import inside_attention
from tavt_kit.models.backbones.fusion import FfvtBackbone
from tavt_kit.models.token_reduction import attention_map, maws_score
from tavt_kit.models.wrap import AdaptiveViT, wrap
from tests.parity.official import aliased, assert_gradients, load, state_of, take_step, timm_from_official

pytestmark = pytest.mark.kind("ffvt_forward")
TOLERANCE = {"atol": 5e-5, "rtol": 0.0}


def golden(reference: Path, name: str, tokens: int) -> tuple[AdaptiveViT, dict[str, Any], dict[str, Any], Tensor]:
    arrays, meta = load(reference, name)
    model = wrap(timm_from_official(state_of(arrays), meta["config"], num_token=tokens))
    return model, arrays, meta, torch.from_numpy(arrays["input"])


def states(model: AdaptiveViT, x: Tensor) -> list[Any]:
    """The state before the first layer and after each."""
    found = [model.start(x)]
    for layer in range(model.layers):
        found.append(model.advance(found[-1], [layer], model.schedule.counts))
    return found


@torch.no_grad()
def test_selected_tokens_logits_and_losses(name: str, reference: Path) -> None:
    for tokens in load(reference, name)[1]["config"]["num_tokens"]:
        compare_selection(reference, name, tokens)


def compare_selection(reference: Path, name: str, tokens: int) -> None:
    model, arrays, meta, x = golden(reference, name, tokens)
    assert isinstance(model.backbone, FfvtBackbone)
    before = states(model, x)[-2]
    for layer, (_, place) in enumerate(before.notes["taken"]):
        np.testing.assert_array_equal(place.numpy(), arrays[f"ff{tokens}/selected_{layer}"])
    fused = torch.cat([before.tokens[:, :1], *(taken for taken, _ in before.notes["taken"])], dim=1)
    torch.testing.assert_close(fused, torch.from_numpy(arrays[f"ff{tokens}/fused_tokens"]), **TOLERANCE)
    encoded = torch.from_numpy(arrays[f"ff{tokens}/encoded"])
    torch.testing.assert_close(model.bare.forward_features(x), encoded, **TOLERANCE)  # type: ignore[operator]
    expected, labels = torch.from_numpy(arrays[f"ff{tokens}/logits"]), torch.from_numpy(arrays["labels"])
    for logits in (model.bare(x), model(x), model.forward_lean(x)):
        torch.testing.assert_close(logits, expected, **TOLERANCE)
    for smoothing in meta["config"]["smoothings"]:
        loss = F.cross_entropy(model.bare(x), labels, label_smoothing=smoothing)
        torch.testing.assert_close(loss, torch.tensor(arrays[f"ff{tokens}/loss_smoothing_{smoothing}"]), **TOLERANCE)


@torch.no_grad()
def test_maws_its_factors_and_ranking(reference: Path, name: str) -> None:
    model, arrays, _, x = golden(reference, name, 3)
    for layer, state in enumerate(states(model, x)[: model.layers - 1]):
        seen = Factors()
        with inside_attention(seen, None):  # type: ignore[arg-type]
            model.bare.blocks[layer].attn(model.bare.blocks[layer].norm1(state.tokens))  # type: ignore[index]
        for mine, kind in (
            (seen.row, "cls_attention_mean"),
            (seen.column, "contribution_mean"),
            (seen.maws, "maws_scores"),
        ):
            torch.testing.assert_close(mine, torch.from_numpy(arrays[f"{kind}_{layer}"]), **TOLERANCE)
        ranking = seen.maws.argsort(dim=1, descending=True, stable=True).numpy()
        np.testing.assert_array_equal(ranking, arrays[f"argsort_{layer}"])
    hidden = torch.from_numpy(arrays[f"hidden_{model.layers - 2}"])
    torch.testing.assert_close(states(model, x)[-2].tokens, hidden, **TOLERANCE)


class Factors:
    """MAWS by the full map, beside the one of a row and a column."""

    row: Tensor
    column: Tensor
    maws: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: Any, dropout: float) -> Tensor:
        self.row = attention_map(q, k, None, scale)[:, :, 0].mean(1)
        self.column = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(2)[..., 0].mean(1)
        self.maws = maws_score(q, k, scale)
        torch.testing.assert_close(self.maws, self.row * self.column)
        return F.scaled_dot_product_attention(q, k, v)


@torch.no_grad()
def test_without_fusion_it_is_a_plain_vit(reference: Path, name: str) -> None:
    arrays, meta = load(reference, name)
    model = timm_from_official(as_vit(state_of(arrays), "ffvt"), meta["config"])
    x, labels = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["labels"])
    logits = model(x)
    torch.testing.assert_close(logits, torch.from_numpy(arrays["noff/logits"]), **TOLERANCE)
    encoded = model.forward_features(x)  # type: ignore[operator]
    torch.testing.assert_close(encoded, torch.from_numpy(arrays["noff/encoded"]), **TOLERANCE)
    for smoothing in meta["config"]["smoothings"]:
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(loss, torch.tensor(arrays[f"noff/loss_smoothing_{smoothing}"]), **TOLERANCE)


def test_training_loss_and_every_gradient_norm(reference: Path, name: str) -> None:
    arrays, meta = load(reference, name)
    model, _, _, _ = golden(reference, name, meta["config"]["num_tokens"][0])
    model.train()
    found = take_step(model, Objective(smoothing=meta["config"]["smoothings"][-1]), arrays)
    assert found == {"loss": pytest.approx(float(arrays["train/loss"]), rel=1e-5)}
    compared = assert_gradients(arrays, model.bare, aliased(state_of(arrays), "ffvt", model.layers))
    assert compared == {key for key in arrays if "gradnorm/" in key}

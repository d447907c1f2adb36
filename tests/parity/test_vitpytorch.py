"""The plain ViT of ViT-pytorch: logits, loss and attention maps, through the public converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.models.backbones.base import Watch
from tests.parity.test_tavt_forward import TOLERANCE, golden

pytestmark = pytest.mark.kind("vitpytorch")


@torch.no_grad()
def test_plain_vit_and_its_attention_maps(name: str, reference: Path) -> None:
    model, arrays, _, x = golden(reference, name)
    logits = model(x)
    torch.testing.assert_close(logits, torch.from_numpy(arrays["logits"]), **TOLERANCE)
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["labels"]))
    torch.testing.assert_close(loss, torch.tensor(arrays["loss"]), **TOLERANCE)
    state = model.start(x)
    for layer in range(model.layers):
        seen = MapWatch()
        state = model.backbone.feed(layer, model.backbone.attend(layer, state, seen))
        expected = torch.from_numpy(arrays[f"attention_{layer}_sample0"])
        torch.testing.assert_close(seen.maps[0][0], expected, **TOLERANCE)


class MapWatch(Watch):
    """A watch that keeps the whole attention map."""

    def __init__(self) -> None:
        super().__init__("column")
        self.maps: list[Tensor] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Any, scale: Any, dropout: float) -> Tensor:
        from tavt_kit.models.token_reduction import attention_map

        self.maps.append(attention_map(q, k, bias, scale))
        return super().__call__(q, k, v, bias, scale, dropout)

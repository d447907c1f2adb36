"""A watch that keeps attention maps: to be looked at, or to be learned from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.token_reduction import attention_map, cls_score, column_score


class MapWatch(Watch):
    """Keeps the attention maps (B, H, n, n) of a layer's calls, and scores by them; gradients flow through the maps."""

    def __init__(self, score: str) -> None:
        super().__init__(score)
        self.maps: list[Tensor] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        attention = attention_map(q, k, bias, scale)
        self.maps.append(attention)
        self._add((cls_score(q, k, bias, scale) if self.score == "cls" else column_score(attention)).detach())
        mixing = F.dropout(attention, dropout) if dropout else attention
        return mixing.to(v.dtype) @ v

    def taken(self, layer: int) -> Tensor:
        """(B, H, n, n); of several parallel calls the only one is not known.

        Raises:
            UnsupportedBackbone: There was no call to look at, or more than one.
        """
        if len(self.maps) != 1:
            raise UnsupportedBackbone(
                f"layer {layer} of this model shows {len(self.maps)} attention maps instead of one, so none can be "
                "distilled; use `feature_weight`"
            )
        return self.maps[0]

    def mean(self) -> Tensor:
        """(B, n, n): the mean over the heads of all calls."""
        return torch.stack([attention.mean(dim=1) for attention in self.maps]).mean(dim=0)

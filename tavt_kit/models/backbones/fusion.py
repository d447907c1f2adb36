"""What FFVT and TransFG share: a last layer that fuses the class token with tokens chosen in the layers before it.

The fusion layer drops nothing and nothing can be restored after it; dropping saves in the layers before it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.timm_vit import TimmVit
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import Pick, TokenState

_vit = timm.models.vision_transformer


class FusionViT(_vit.VisionTransformer):  # type: ignore[misc,name-defined]
    """A timm ViT whose forward is its adapter's, so that it is written once.

    Raises:
        UnsupportedBackbone: There is no class token to fuse with, or the head reads something else.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.cls_token is None or self.num_prefix_tokens != 1 or self.global_pool != "token":
            name = type(self).__name__
            raise UnsupportedBackbone(f"{name} fuses with a class token; create it with one, and global_pool='token'")

    @abstractmethod
    def adapter(self) -> FusionBackbone:
        """The adapter that runs the model's layers."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the fused tokens (B, 1 + chosen, D), normed."""
        backbone = self.adapter()
        state = backbone.embed(x)
        for layer in range(backbone.layers):
            state = backbone.feed(layer, backbone.attend(layer, state, None))
        return self.norm(state.tokens)  # type: ignore[no-any-return]


class FusionBackbone(TimmVit):
    """See the module; attributes as in ``Backbone``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.fusion = self.alike = self.layers - 1
        self.droppable = (True,) * self.fusion + (False,)
        # What is chosen needs the attention of every row, so only the fusion layer runs for the class token alone.
        self.thin = (False,) * self.fusion + (self.thin[-1],)
        self.unmergeable = "its last layer fuses tokens of all layers, and a merged one stands for several of them"

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        if layer == self.fusion:
            return super().attend(layer, self.fused(state), watch)
        return self.attend_watched(layer, state, watch)

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        if layer == self.fusion and self.thin[layer]:
            state = self.fused(state)
        return super().attend_rows(layer, state, pick)

    def attend_plainly(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        """The attention half-block of an ordinary ViT."""
        return super().attend(layer, state, watch)

    @abstractmethod
    def attend_watched(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        """The attention half-block of a layer before the fusion, noting what the choice needs."""

    @abstractmethod
    def chosen(self, state: TokenState) -> tuple[Tensor, Tensor]:
        """What the fusion takes beside the class token: tokens (B, k, D) and their original places (B, k)."""

    def fused(self, state: TokenState) -> TokenState:
        """The class token and everything that was chosen."""
        tokens, place = self.chosen(state)
        return replace(
            state,
            tokens=torch.cat([state.tokens[:, :1], tokens], dim=1),
            place=torch.cat([torch.zeros_like(place[:, :1]), place], dim=1),
            last=None,
            along=MappingProxyType({}),
        )

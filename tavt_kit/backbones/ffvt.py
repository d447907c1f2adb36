"""FFVT, the Feature Fusion Vision Transformer (Wang et al., BMVC 2021): the model, and its adapter.

After each layer but the last, the ``num_token`` tokens of the highest mutual attention weight (MAWS, section 3.3) are
taken from the layer's output; the last layer fuses the class token with all of them, and the head reads the class
token. Under token drop each layer takes its tokens among those it keeps, or all of them where fewer are left. The
fusion layer drops nothing: dropping saves in the layers before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.backbones.base import Watch
from tavt_kit.backbones.costs import HeadCosts, LayerCosts
from tavt_kit.backbones.timm_vit import TimmVit
from tavt_kit.drop import Pick, gather_rows
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.scores import maws_score
from tavt_kit.timm_import import timm
from tavt_kit.tokens import TokenState

__all__ = ["Ffvt", "FfvtBackbone", "ffvt_base_patch16", "ffvt_base_patch32", "ffvt_large_patch16", "ffvt_large_patch32"]

_vit = timm.models.vision_transformer
checkpoint_filter_fn = _vit.checkpoint_filter_fn
"""Position tables of another image size are resized as for any of timm's ViTs."""


class Ffvt(_vit.VisionTransformer):  # type: ignore[misc,name-defined]
    """A ViT whose last block fuses the class token with tokens taken from all layers before it.

    Args:
        num_token: Tokens taken from each layer; 12 in the paper, 24 for Stanford Dogs.
        **options: Those of timm's VisionTransformer.

    Raises:
        UnsupportedBackbone: ``num_token`` is no whole number above 0, or there is no class token to fuse with.
    """

    def __init__(self, num_token: int = 12, **options: Any) -> None:
        if not isinstance(num_token, int) or isinstance(num_token, bool) or num_token < 1:
            raise UnsupportedBackbone(f"FFVT takes a whole number of tokens above 0 from each layer, got {num_token!r}")
        super().__init__(**options)
        if self.cls_token is None or self.num_prefix_tokens != 1 or self.global_pool != "token":
            raise UnsupportedBackbone("FFVT fuses with a class token; create it with one, and global_pool='token'")
        self.num_token = num_token

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the fused tokens (B, 1 + (L - 1) * num_token, D), normed."""
        backbone = FfvtBackbone(self)
        state = backbone.embed(x)
        for layer in range(backbone.layers):
            state = backbone.feed(layer, backbone.attend(layer, state, None))
        return self.norm(state.tokens)  # type: ignore[no-any-return]


class _MawsWatch(Watch):
    """Scores every token of an attention call by MAWS; another watch may look on."""

    def __init__(self, other: Watch | None) -> None:
        super().__init__("maws")
        self.other = other

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        self.scores = maws_score(q, k, scale)
        if self.other is not None:
            return self.other(q, k, v, bias, scale, dropout)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


class FfvtBackbone(TimmVit):
    """See the module; attributes as in ``Backbone``."""

    def __init__(self, model: Ffvt) -> None:
        super().__init__(model)
        self.fusion = self.layers - 1
        self.taps = model.num_token
        self.droppable = (True,) * self.fusion + (False,)
        # What is taken needs the scores of every row, so only the fusion layer runs for the class token alone.
        self.thin = (False,) * self.fusion + (self.thin[-1],)

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        if layer == self.fusion:
            return super().attend(layer, _fused(state), watch)
        maws = _MawsWatch(watch)
        state = super().attend(layer, state, maws)
        assert maws.scores is not None  # every block of this model makes one attention call
        return replace(state, along=MappingProxyType({**state.along, "maws": maws.scores}))

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        if layer == self.fusion and self.thin[layer]:
            state = _fused(state)
        return super().attend_rows(layer, state, pick)

    def feed(self, layer: int, state: TokenState) -> TokenState:
        state = super().feed(layer, state)
        return state if layer == self.fusion else self._take(state)

    def _take(self, state: TokenState) -> TokenState:
        """Note the best tokens of a layer's output, the best first, the class token being one of the candidates."""
        scores = state.along["maws"]
        best = scores.topk(min(self.taps, state.count), dim=1).indices
        place = best if state.place is None else gather_rows(state.place, best)
        taken = (*state.notes.get("taken", ()), (gather_rows(state.tokens, best), place))
        return replace(state, notes=MappingProxyType({**state.notes, "taken": taken}))

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        stem, layers, head = super().costs()
        # MAWS: one query with all keys, and all queries with one key.
        taking = tuple(replace(cost, select=2 * cost.width, taps=self.taps) for cost in layers[:-1])
        return stem, (*taking, replace(layers[-1], fuses=True)), head


def _fused(state: TokenState) -> TokenState:
    """The class token and everything that was taken; nothing can be restored from here on."""
    first = torch.zeros_like(state.notes["taken"][0][1][:, :1])
    tokens = torch.cat([state.tokens[:, :1], *(tokens for tokens, _ in state.notes["taken"])], dim=1)
    place = torch.cat([first, *(place for _, place in state.notes["taken"])], dim=1)
    return replace(state, tokens=tokens, place=place, last=None, along=MappingProxyType({}))


def _configuration(name: str) -> dict[str, Any]:
    """The recipes' evaluation: every edge to 600 px, then 448 from the centre."""
    return {
        "url": "", "num_classes": 1000, "input_size": (3, 448, 448), "pool_size": None, "crop_pct": 448 / 600,
        "crop_mode": "squash", "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj", "classifier": "head", "architecture": name,
    }  # fmt: skip


_SHAPES = {
    "ffvt_base_patch16": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "ffvt_base_patch32": {"patch_size": 32, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "ffvt_large_patch16": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "ffvt_large_patch32": {"patch_size": 32, "embed_dim": 1024, "depth": 24, "num_heads": 16},
}
default_cfgs = timm.models.generate_default_cfgs({name: _configuration(name) for name in _SHAPES})
"""What timm's registry knows of the models; none of them has weights that can be fetched."""


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> Ffvt:
    given = {"img_size": 448, **_SHAPES[name], **options}
    model: Ffvt = timm.models.build_model_with_cfg(Ffvt, name, pretrained, **given)
    return model


_register: Callable[[Callable[..., Ffvt]], Callable[..., Ffvt]] = timm.models.register_model


@_register
def ffvt_base_patch16(pretrained: bool = False, **options: Any) -> Ffvt:
    """FFVT on ViT-B/16 at 448 px."""
    return _create("ffvt_base_patch16", pretrained, options)


@_register
def ffvt_base_patch32(pretrained: bool = False, **options: Any) -> Ffvt:
    """FFVT on ViT-B/32 at 448 px."""
    return _create("ffvt_base_patch32", pretrained, options)


@_register
def ffvt_large_patch16(pretrained: bool = False, **options: Any) -> Ffvt:
    """FFVT on ViT-L/16 at 448 px."""
    return _create("ffvt_large_patch16", pretrained, options)


@_register
def ffvt_large_patch32(pretrained: bool = False, **options: Any) -> Ffvt:
    """FFVT on ViT-L/32 at 448 px."""
    return _create("ffvt_large_patch32", pretrained, options)

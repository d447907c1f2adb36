"""FFVT and TransFG: a last layer that fuses the class token with tokens chosen in the layers before it.

The fusion layer drops nothing and nothing can be restored after it; dropping saves in the layers before it, and what
is fused is chosen among the tokens that are left.

FFVT (Wang et al., BMVC 2021) takes, after each layer but the last, the ``num_token`` tokens of the highest mutual
attention weight (MAWS, section 3.3) from the layer's output. TransFG (He et al., AAAI 2022) takes one patch for each
head, the one that the head's attention rollout A11 ... A1 (section 3.3, without identity) gives most of the class
token, whose row of that product is multiplied from the left, a vector at a time.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, register, with_overlap
from tavt_kit.models.backbones.timm_vit import TimmVit
from tavt_kit.models.costs import HeadCosts, LayerCosts
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import (
    Pick,
    TokenState,
    attention_map,
    gather_rows,
    learns,
    maws_score,
    score_beside,
)

_vit = timm.models.vision_transformer


class FusionViT(_vit.VisionTransformer):  # type: ignore[misc,name-defined]
    """A timm ViT whose forward is its adapter's, so that it is written once."""

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
        """The attention half-block; the fusion layer's is that of the class token and all that was chosen."""
        if layer == self.fusion:
            return super().attend(layer, self.fused(state), watch)
        return self.attend_watched(layer, state, watch)

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        if layer == self.fusion and self.thin[layer]:
            state = self.fused(state)
        return super().attend_rows(layer, state, pick)

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


checkpoint_filter_fn = timm.models.vision_transformer.checkpoint_filter_fn
"""Position tables of another image size are resized as for any of timm's ViTs."""


class Ffvt(FusionViT):
    """A ViT whose last block fuses the class token with tokens taken from all layers before it.

    Args:
        num_token: Tokens taken from each layer; 12 in the paper, 24 for Stanford Dogs.
    """

    def __init__(self, num_token: int = 12, **options: Any) -> None:
        if not isinstance(num_token, int) or isinstance(num_token, bool) or num_token < 1:
            raise UnsupportedBackbone(f"FFVT takes a whole number of tokens above 0 from each layer, got {num_token!r}")
        super().__init__(**options)
        self.num_token = num_token

    def adapter(self) -> FusionBackbone:
        return FfvtBackbone(self)


class _MawsWatch(Watch):
    """Scores every token of an attention call by MAWS; another watch may look on."""

    def __init__(self, other: Watch | None) -> None:
        super().__init__("maws")
        self.other = other

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        with torch.no_grad():  # only ranked
            self.scores = maws_score(q, k, scale)
        if self.other is not None:
            return self.other(q, k, v, bias, scale, dropout)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


class FfvtBackbone(FusionBackbone):
    """See the module; attributes as in ``Backbone``."""

    def __init__(self, model: Ffvt) -> None:
        super().__init__(model)
        self.taps = model.num_token
        self.rowwise = False  # it takes the best of the tokens that are left

    def alone(self, layer: int, state: TokenState) -> TokenState:
        if layer != self.fusion:
            return replace(state, along=MappingProxyType({"maws": state.tokens[..., 0]}))
        places = torch.arange(1, state.count, device=state.tokens.device).expand(state.tokens.shape[0], -1)
        taken = ((state.tokens[:, 1:], places),)
        return replace(state, notes=MappingProxyType({**state.notes, "taken": taken}))

    def attend_watched(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        maws = _MawsWatch(watch)
        state = TimmVit.attend(self, layer, state, maws)
        return replace(state, along=MappingProxyType({**state.along, "maws": maws.scored(layer)}))

    def feed(self, layer: int, state: TokenState) -> TokenState:
        state = super().feed(layer, state)
        if layer == self.fusion:
            return state
        # The best tokens of a layer's output, the best first, the class token being one of the candidates.
        best = state.along["maws"].topk(min(self.taps, state.count), dim=1).indices
        place = best if state.place is None else gather_rows(state.place, best)
        taken = (*state.notes.get("taken", ()), (gather_rows(state.tokens, best), place))
        return replace(state, notes=MappingProxyType({**state.notes, "taken": taken}))

    def chosen(self, state: TokenState) -> tuple[Tensor, Tensor]:
        tokens, places = zip(*state.notes["taken"], strict=True)
        return torch.cat(tokens, dim=1), torch.cat(places, dim=1)

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        stem, layers, head = super().costs()
        # MAWS: one query with all keys, and all queries with one key; pair_score is all channels of all heads.
        taking = tuple(replace(cost, select=2 * cost.pair_score, taps=self.taps) for cost in layers[:-1])
        return stem, (*taking, replace(layers[-1], fuses=1)), head


register(__name__, Ffvt, with_overlap("ffvt"), FGVC_EVALUATION)


class TransFg(FusionViT):
    """A ViT whose last block fuses the class token with one patch for each attention head."""

    def adapter(self) -> FusionBackbone:
        return TransFgBackbone(self)


class _MapWatch(Watch):
    """Keeps the whole attention map of a call, and scores by it for another watch."""

    def __init__(self, other: Watch | None) -> None:
        super().__init__("map")
        self.other = other
        self.map: Tensor | None = None

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        with torch.no_grad():  # only ranked
            self.map = attention_map(q, k, bias, scale)
        if self.other is not None:
            self.other.scores = score_beside(self.other.score, self.map, q, k, bias, scale)
        if learns(q):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        mixing = F.dropout(self.map, dropout) if dropout else self.map
        return mixing.to(v.dtype) @ v


class TransFgBackbone(FusionBackbone):
    """See the module; attributes as in ``Backbone``."""

    def alone(self, layer: int, state: TokenState) -> TokenState:
        if layer != self.fusion:
            return state
        heads = int(self.blocks[0].attn.num_heads)
        blank = state.tokens.new_zeros(state.tokens.shape[0], heads, state.count, state.count)
        return replace(state, notes=MappingProxyType({**state.notes, "maps": ((blank, state.place),)}))

    def attend_watched(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        seen = _MapWatch(watch)
        entered = state.place
        state = TimmVit.attend(self, layer, state, seen)
        maps = (*state.notes.get("maps", ()), (seen.map, entered))
        return replace(state, notes=MappingProxyType({**state.notes, "maps": maps}))

    def chosen(self, state: TokenState) -> tuple[Tensor, Tensor]:
        row = rollout_row(state.notes["maps"], self.tokens)  # (B, N, H), or (B, n, H) of a layer run alone
        if state.place is not None:
            row = gather_rows(row, state.place)
        best = 1 + row[:, 1:].argmax(dim=1)  # (B, H) rows of the survivors
        place = best if state.place is None else gather_rows(state.place, best)
        return gather_rows(state.tokens, best), place

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        stem, layers, head = super().costs()
        heads = int(self.blocks[0].attn.num_heads)
        # The rollout: a row vector times a map, for each head, in every layer before the fusion but the last.
        rolled = tuple(replace(cost, pair=cost.pair + heads) for cost in layers[:-2])
        return stem, (*rolled, *layers[-2:-1], replace(layers[-1], fuses=1 + heads)), head


def rollout_row(maps: tuple[tuple[Tensor, Tensor | None], ...], tokens: int) -> Tensor:
    """(B, N, H): how much of every original token is in the class token, by head: its row of the product of the maps.

    Each layer has its map (B, H, n, n), and the places (B, n) of the tokens that entered it (None: all).
    """
    last, place = maps[-1]
    row = last[:, :, :1]  # (B, H, 1, n)
    for attention, entered in reversed(maps[:-1]):
        if place is not None:  # of the tokens that entered this layer, those dropped in it have passed on nothing
            row = _spread(row, place, tokens)
            if entered is not None:
                row = gather_rows(row[:, :, 0].transpose(1, 2), entered).transpose(1, 2).unsqueeze(2)
        row = row @ attention
        place = entered
    row = row if place is None else _spread(row, place, tokens)
    return row[:, :, 0].transpose(1, 2)


def _spread(row: Tensor, place: Tensor, tokens: int) -> Tensor:
    """(B, H, 1, n) at places (B, n) -> (B, H, 1, N), zero elsewhere."""
    blank = row.new_zeros((*row.shape[:3], tokens))
    index = place[:, None, None].expand_as(row)
    return blank.scatter(3, index, row)


register(__name__, TransFg, with_overlap("transfg"), FGVC_EVALUATION)

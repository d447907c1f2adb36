"""TransFG (He et al., AAAI 2022): the model, and its adapter.

The last layer fuses the class token with one patch token for each head: the patch that the head's attention rollout
A11 ... A1 (section 3.3, without identity) gives most of the class token. Only the class token's row of that product
is needed, so it is multiplied from the left, a row vector at a time: the same patches for a few thousandths of the
multiply-adds. Under token drop a row runs over the tokens that entered its layer, and patches are chosen among the
survivors. The fusion layer drops nothing: dropping saves in the layers before it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.fusion import FusionBackbone, FusionViT
from tavt_kit.models.backbones.overlap import with_overlap
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, VIT_SIZES, register
from tavt_kit.models.costs import HeadCosts, LayerCosts
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import TokenState, attention_map, cls_score, column_score, gather_rows, learns

checkpoint_filter_fn = timm.models.vision_transformer.checkpoint_filter_fn
"""Position tables of another image size are resized as for any of timm's ViTs."""


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
            by_class = self.other.score == "cls"
            self.other.scores = cls_score(q, k, bias, scale) if by_class else column_score(self.map)
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
        state = self.attend_plainly(layer, state, seen)
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
    """The class token's row of the product of attention maps, the last one first.

    Args:
        maps: For each layer its map (B, H, n, n), and the places (B, n) of the tokens that entered it (None: all).
        tokens: N, of the whole sequence.

    Returns:
        (B, N, H): how much of every original token is in the class token, by head.
    """
    last, place = maps[-1]
    row = last[:, :, :1]  # (B, H, 1, n)
    for attention, entered in reversed(maps[:-1]):
        if place is not None:  # of the tokens that entered this layer, those dropped in it have passed on nothing
            row = _spread(row, place, tokens) if entered is None else _among(row, place, entered, tokens)
        row = row @ attention
        place = entered
    row = row if place is None else _spread(row, place, tokens)
    return row[:, :, 0].transpose(1, 2)


def _spread(row: Tensor, place: Tensor, tokens: int) -> Tensor:
    """(B, H, 1, n) at places (B, n) -> (B, H, 1, N), zero elsewhere."""
    blank = row.new_zeros((*row.shape[:3], tokens))
    index = place[:, None, None].expand_as(row)
    return blank.scatter(3, index, row)


def _among(row: Tensor, place: Tensor, entered: Tensor, tokens: int) -> Tensor:
    """(B, H, 1, n) at places (B, n) -> (B, H, 1, m) at the places ``entered`` (B, m)."""
    whole = _spread(row, place, tokens)[:, :, 0].transpose(1, 2)  # (B, N, H)
    return gather_rows(whole, entered).transpose(1, 2).unsqueeze(2)


register(
    __name__, TransFg, {f"transfg_{size}": shape for size, shape in with_overlap(VIT_SIZES).items()}, FGVC_EVALUATION
)

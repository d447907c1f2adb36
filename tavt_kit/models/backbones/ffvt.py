"""FFVT, the Feature Fusion Vision Transformer (Wang et al., BMVC 2021): the model, and its adapter.

After each layer but the last, the ``num_token`` tokens of the highest mutual attention weight (MAWS, section 3.3) are
taken from the layer's output; the last layer fuses the class token with all of them, and the head reads the class
token. Under token drop each layer takes its tokens among those it keeps, or all of them where fewer are left. The
fusion layer drops nothing: dropping saves in the layers before it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.fusion import FusionBackbone, FusionViT
from tavt_kit.models.backbones.overlap import with_overlap
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, VIT_SIZES, register
from tavt_kit.models.costs import HeadCosts, LayerCosts
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import TokenState, gather_rows, maws_score

checkpoint_filter_fn = timm.models.vision_transformer.checkpoint_filter_fn
"""Position tables of another image size are resized as for any of timm's ViTs."""


class Ffvt(FusionViT):
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
        state = self.attend_plainly(layer, state, maws)
        assert maws.scores is not None  # every block of this model makes one attention call
        return replace(state, along=MappingProxyType({**state.along, "maws": maws.scores}))

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

    def chosen(self, state: TokenState) -> tuple[Tensor, Tensor]:
        tokens, places = zip(*state.notes["taken"], strict=True)
        return torch.cat(tokens, dim=1), torch.cat(places, dim=1)

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        stem, layers, head = super().costs()
        # MAWS: one query with all keys, and all queries with one key; pair_score is all channels of all heads.
        taking = tuple(replace(cost, select=2 * cost.pair_score, taps=self.taps) for cost in layers[:-1])
        return stem, (*taking, replace(layers[-1], fuses=1)), head


register(__name__, Ffvt, {f"ffvt_{size}": shape for size, shape in with_overlap(VIT_SIZES).items()}, FGVC_EVALUATION)

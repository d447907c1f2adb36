"""The adapters of FGVC-PIM: over a ViT, whose blocks drop tokens, and over everything else, which drops nothing.

Over a ViT each of the last four blocks hands a level to the pyramid. A level has all N tokens: the state keeps the
latest value of every token (``last``), and what enters the next block is what the level holds. So a dropped token is
in each level with its last value, and a block that is left out hands on what it received.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tavt_kit.models.backbones.base import Outputs, Watch
from tavt_kit.models.backbones.pim_levels import LEVELS
from tavt_kit.models.backbones.timm_vit import TimmVit
from tavt_kit.models.backbones.whole import StaticModel
from tavt_kit.models.costs import HeadCosts, LayerCosts, layer_costs, stem_macs
from tavt_kit.models.token_reduction import Pick, TokenState, restore

if TYPE_CHECKING:
    from tavt_kit.models.backbones.pim import Pim


class PimVitBackbone(TimmVit):
    """See the module; attributes as in ``Backbone``."""

    def __init__(self, pim: Pim) -> None:
        super().__init__(pim.backbone)
        self.pim = pim
        self.head_rows = None
        self.unmergeable = "its pyramid reads every token's latest value in four layers"
        self.first = self.layers - LEVELS

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> (B, N, D), every token of it kept for the levels."""
        state = super().embed(images)
        return replace(state, last=state.tokens)

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        return super().attend(layer, self._noted(layer, state), watch)

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        return super().attend_rows(layer, self._noted(layer, state), pick)

    def _noted(self, layer: int, state: TokenState) -> TokenState:
        """Note the levels before ``layer`` that are not noted yet; a layer that is timed alone has none."""
        noted: tuple[Tensor, ...] = state.notes.get("levels", ())
        missing = layer - self.first - len(noted)
        if state.last is None or missing <= 0:
            return state
        levels = (*noted, *[state.last] * missing)
        return replace(state, notes=MappingProxyType({**state.notes, "levels": levels}))

    def levels(self, state: TokenState) -> tuple[Tensor, ...]:
        """The four levels (B, N, D) of a state that passed every layer."""
        if state.last is None:  # mere tokens, to time the head: as many rows to restore, at whatever places
            places = torch.arange(state.count, device=state.tokens.device).expand(state.tokens.shape[0], -1)
            blank = state.tokens.new_zeros(state.tokens.shape[0], self.tokens, state.tokens.shape[2])
            state = replace(state, last=restore(blank, state.tokens, places))
        return self._noted(self.layers, state).notes["levels"]  # type: ignore[no-any-return]

    def outputs(self, state: TokenState) -> Outputs:
        return self.pim.result_of(self.levels(state))

    def pooled(self, state: TokenState) -> Tensor:
        return self.pim.pooled_of(self.levels(state))

    def closest(self, state: TokenState) -> Tensor:
        """See ``Pim.closest``."""
        return self.pim.closest(self.levels(state))

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        layers = tuple(layer_costs(block, joint) for block, joint in zip(self.blocks, self.joint, strict=True))
        return stem_macs(self.model), layers, HeadCosts(self.pim.head_macs())


class PimWhole(StaticModel):
    """Of backbones with nothing to drop; the state carries their levels to the head."""

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> the deepest level (B, S, C), the four of them noted."""
        levels = tuple(self.model.levels(images))
        return TokenState(levels[-1], 0, notes=MappingProxyType({"levels": levels}))

    def levels(self, state: TokenState) -> tuple[Tensor, ...]:
        """The four levels (B, S, C)."""
        return state.notes["levels"]  # type: ignore[no-any-return]

    def outputs(self, state: TokenState) -> Outputs:
        return self.model.result_of(self.levels(state))  # type: ignore[no-any-return]

    def pooled(self, state: TokenState) -> Tensor:
        return self.model.pooled_of(self.levels(state))  # type: ignore[no-any-return]

    def closest(self, state: TokenState) -> Tensor:
        """See ``Pim.closest``."""
        return self.model.closest(self.levels(state))  # type: ignore[no-any-return]

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        training = self.model.training
        self.model.eval()  # a counting pass must not reach the statistics of the norms
        try:
            return super().costs()
        finally:
            self.model.train(training)

"""The adapter for ViTAE and ViTAEv2: dropping in normal cells, which have convolutions on the grid.

What can drop are the normal cells with full attention of one stage, the one of most tokens. The stages before it run
dense inside ``embed`` (windows and strided convolutions need the grid), those after it inside ``outputs``, once every
token is back in its place.

A cell drops tokens from its attention and its feed-forward half, as in any ViT. Its convolutions run on the whole grid,
where each dropped token stands with its latest value; only the rows of those that are left are added. So no weight has
to be re-learned, and the convolutions' multiply-adds stay (docs/families.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.base import Backbone, Outputs, Watch, inside_attention, require_fused
from tavt_kit.models.backbones.thin import is_thin, thin_attention
from tavt_kit.models.backbones.vitae import FULL, NormalCell, Vitae
from tavt_kit.models.costs import HeadCosts, LayerCosts, layer_costs, part_macs
from tavt_kit.models.token_reduction import Pick, TokenState, drop, first_rows, gather_rows


class VitaeBackbone(Backbone):
    """See the module; the attributes are those of ``Backbone``."""

    def __init__(self, model: Vitae) -> None:
        self.model = cast("Any", model)
        stages: list[Any] = list(model.layers)
        full = [i for i, stage in enumerate(stages) if len(stage.NC) and stage.NC[0].kind in FULL]
        if not full:
            raise UnsupportedBackbone(
                "tokens are dropped from normal cells with full attention, but this ViTAE has none; give a stage of "
                "kind transformer some depth"
            )
        self.stage = max(full, key=lambda i: stages[i].grid[0] * stages[i].grid[1])
        self.blocks: list[Any] = list(self.model.layers[self.stage].NC)
        require_fused("this ViTAE", (cell.attn for cell in self.blocks))
        self.layers = self.alike = len(self.blocks)
        self.prefix: int = model.prefix
        self.grid: tuple[int, int] = self.model.layers[self.stage].grid
        self.image_size: tuple[int, int] = model.image_size
        self.tokens = self.prefix + self.grid[0] * self.grid[1]
        self.droppable = self.joint = (True,) * self.layers
        self.thin = tuple(is_thin(cell.attn) for cell in self.blocks)
        self.unmergeable = "its convolutions need each token in a place of its own"
        self.has_class_token = model.class_token

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> (B, N, D): the stages before, and the reduction cell of the one that drops."""
        x = images
        for stage in self.model.layers[: self.stage]:
            x = stage(x)
        x = self.model.layers[self.stage].RC(x)
        return TokenState(x, self.prefix, last=x)

    def alone(self, layer: int, state: TokenState) -> TokenState:
        """Mere tokens at the first places of a grid that is blank elsewhere."""
        # A traced part serves every length, so there the answer must not hang on that of the example.
        if state.last is not None or (state.count == self.tokens and not torch._C._get_tracing_state()):
            return state
        batch, count, width = state.tokens.shape
        place = state.place
        if place is None:
            place = torch.arange(count, device=state.tokens.device).expand(batch, -1)
        blank = state.tokens.new_zeros(batch, self.tokens, width)
        return replace(state, place=place, last=torch.cat([state.tokens, blank], dim=1)[:, : self.tokens])

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        """The attention half-block, and what the convolutions give the patches that are left."""
        cell = self.blocks[layer]
        local = self._local(cell, state, state.place)
        normed = cell.norm1(state.tokens)
        if watch is None:
            mixed = cell.attn(normed)
        else:
            with inside_attention(watch, None):
                mixed = cell.attn(normed)
        return state.with_tokens(cell.add(state.tokens, mixed, local))

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        cell = self.blocks[layer]
        mixed, index = thin_attention(cell.attn, cell.norm1(state.tokens), pick)
        kept = first_rows(state, pick.count) if index is None else drop(state, index)
        return kept.with_tokens(cell.add(kept.tokens, mixed, self._local(cell, state, kept.place)))

    def _local(self, cell: NormalCell, state: TokenState, place: Tensor | None) -> Tensor:
        """The convolutions' rows (B, n - prefix, D) for the patches at ``place`` (B, n); None for all."""
        local = cell.local(_whole(state))
        return local if place is None else gather_rows(local, place[:, self.prefix :] - self.prefix)

    def feed(self, layer: int, state: TokenState) -> TokenState:
        return state.with_tokens(self.blocks[layer].feed(state.tokens))

    def outputs(self, state: TokenState) -> Outputs:
        return Outputs(self.model.forward_head(self._last_tokens(state)))

    def pooled(self, state: TokenState) -> Tensor:
        return self.model.forward_head(self._last_tokens(state), pre_logits=True)  # type: ignore[no-any-return]

    def _last_tokens(self, state: TokenState) -> Tensor:
        """What the head pools: of this stage what is left, or all tokens of the last one."""
        after = self.model.layers[self.stage + 1 :]
        if not after:
            return state.tokens
        x = _whole(self.alone(0, state))
        for stage in after:
            x = stage(x)
        return x

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        layers, places = [], self.grid[0] * self.grid[1]
        for cell in self.blocks:
            weights = sum(conv.weight.numel() for conv in cell.PCM.modules() if isinstance(conv, nn.Conv2d))
            layers.append(replace(layer_costs(cell, joint=True), constant=weights * places))
        width = self.blocks[0].norm1.weight.shape[0]
        stem = part_macs(self.model, lambda images: self.embed(images).tokens, (3, *self.image_size))
        tail = part_macs(self.model, lambda x: self.outputs(TokenState(x, self.prefix)).logits, (self.tokens, width))
        return stem, tuple(layers), HeadCosts(tail)


def _whole(state: TokenState) -> Tensor:
    """(B, N, D): every token, those that were dropped with their latest value (the loop writes it after each layer)."""
    if state.place is None or state.last is None:
        return state.tokens
    return state.last

"""The parts of a model that the latency table times: chains of half-blocks, made of its own layers.

Every part calls the backbone's adapter exactly as ``AdaptiveViT.advance(..., lean=True)`` does. A chain runs
several layers, because a single layer's weights would stay in the caches, which those of a whole model do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.models.token_reduction import Pick, TokenState
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["AttendPart", "DropPart", "FeedPart", "HeadPart", "LastPart", "Part", "StemPart"]


class Part(nn.Module):
    """Common to all parts: the model, the layers of the chain, and the state a layer receives.

    Args:
        model: Already in the device, precision and mode to be timed.
        layers: Which layers the chain runs.
        notes: What ``embed`` gave the layers (rotary tables, position biases).
        placed: Whether tokens have left before, so that position terms must follow those that stay, and the sizes of
            merged ones join the attention.
    """

    def __init__(self, model: AdaptiveViT, layers: Sequence[int], notes: Any, placed: bool) -> None:
        super().__init__()
        self.model = model
        self.layers = tuple(layers)
        self.notes = notes
        self.placed = placed
        self.eval()  # the model is already; converters look at the outermost module

    def _state(self, layer: int, tokens: Tensor, place: Tensor | None) -> TokenState:
        """What ``layer`` receives."""
        if place is None and self.placed:
            place = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
        sizes = None
        if self.placed and self.model.reduction == "merge":
            # Of any values above 0, but hanging on the tokens: a compiler would leave out the logarithm of ones.
            sizes = 1 + tokens[:, :, 0].float().square()
        state = TokenState(tokens, self.model.prefix, place=place, notes=self.notes, sizes=sizes)
        return self.model.backbone.alone(layer, state)


class StemPart(Part):
    """Images (B, 3, H, W) -> the tokens before layer 0."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, D)."""
        return self.model.backbone.embed(images).tokens


class AttendPart(Part):
    """The attention half-blocks that keep every token, one after another."""

    def forward(self, tokens: Tensor, place: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, n, D) -> (B, n, D), and what goes along with the tokens, so that no compiler leaves it out."""
        along = list[Tensor]()
        for layer in self.layers:
            state = self.model.backbone.attend(layer, self._state(layer, tokens, place), None)
            tokens, along = state.tokens, [*along, *state.along.values()]
        return tokens, *along


class FeedPart(Part):
    """The feed-forward half-blocks, one after another."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, D) -> (B, n, D)."""
        for layer in self.layers:
            tokens = self.model.backbone.feed(layer, self._state(layer, tokens, None)).tokens
        return tokens


class DropPart(Part):
    """The attention half-blocks that drop or merge tokens, side by side, each on tokens of its own.

    A chain would shorten the sequence; the same tensor for all would let a compiler share their first norm.
    """

    def forward(self, kept: int | Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """``kept``, (B, n, D) for each layer and, where positions follow the tokens, places (B, n)."""
        pick = Pick(kept, self.model.prefix, self.model.score, self.model.selection)
        place = inputs[-1] if len(inputs) > len(self.layers) else None
        return tuple(
            self.model.attend_and_reduce(layer, self._state(layer, tokens, place), pick, lean=True).tokens
            for layer, tokens in zip(self.layers, inputs, strict=False)
        )


class LastPart(Part):
    """Layers run as the last one before a head that reads leading tokens only, side by side."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, n, D) for each layer (and places) -> the head's tokens (B, rows, D) of each."""
        backbone = self.model.backbone
        pick = Pick(backbone.head_rows or 1, self.model.prefix, None)
        place = inputs[-1] if len(inputs) > len(self.layers) else None
        return tuple(
            backbone.feed(layer, backbone.attend_rows(layer, self._state(layer, tokens, place), pick)).tokens
            for layer, tokens in zip(self.layers, inputs, strict=False)
        )


class HeadPart(Part):
    """Final norm, pooling and classifier."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, n, D) -> logits (B, classes)."""
        return self.model.finish(TokenState(tokens, self.model.prefix, notes=self.notes))

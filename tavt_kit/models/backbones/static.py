"""The adapter of models with nothing to drop: one layer, which keeps everything.

They are built, converted, evaluated, exported and checked as all others; a search or a distillation of them is refused
with the reason. Such a model says ``static_reason`` (a sentence's second half) and ``image_size``, and has timm's
``forward_features`` (images to tokens (B, T, D)) and ``forward_head``.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from tavt_kit.models.backbones.base import Backbone, Outputs, Watch
from tavt_kit.models.costs import HeadCosts, LayerCosts, part_macs
from tavt_kit.models.token_reduction import Pick, TokenState


def is_whole(model: nn.Module) -> bool:
    """Whether the model says that nothing of it can be dropped."""
    return isinstance(getattr(model, "static_reason", None), str)


class StaticModel(Backbone):
    """See the module; attributes as in ``Backbone``."""

    layers, prefix, alike = 1, 0, 1
    droppable, joint, thin = (False,), (True,), (False,)
    has_class_token = False

    def __init__(self, model: nn.Module) -> None:
        self.model = cast("Any", model)
        self.static_reason = self.unmergeable = self.model.static_reason
        self.image_size, self.tokens = self.model.image_size, self.model.num_tokens
        self.grid = (1, self.tokens)

    def embed(self, images: Tensor) -> TokenState:
        """(B, 3, H, W) -> the tokens (B, T, D) that the head reads."""
        return TokenState(self.model.forward_features(images), 0)

    def attend(self, layer: int, state: TokenState, watch: Watch | None) -> TokenState:
        return state

    def attend_rows(self, layer: int, state: TokenState, pick: Pick) -> TokenState:
        return state

    def feed(self, layer: int, state: TokenState) -> TokenState:
        return state

    def outputs(self, state: TokenState) -> Outputs:
        return Outputs(self.model.forward_head(state.tokens))

    def pooled(self, state: TokenState) -> Tensor:
        return self.model.forward_head(state.tokens, pre_logits=True)  # type: ignore[no-any-return]

    def costs(self) -> tuple[int, tuple[LayerCosts, ...], HeadCosts]:
        return part_macs(self.model, self.model, (3, *self.image_size)), (LayerCosts(*[0] * 8),), HeadCosts(0)

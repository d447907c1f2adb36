"""The adapter of models with nothing to drop: one layer, which keeps everything.

They are built, converted, evaluated, exported and checked as all others; a search or a distillation of them is refused
with the reason. Such a model says ``static_reason`` (a sentence's second half) and ``image_size``, and has timm's
``forward_features`` (images to tokens (B, T, D)) and ``forward_head``.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tavt_kit.models.backbones.base import Backbone, Outputs, Watch
from tavt_kit.models.costs import HeadCosts, LayerCosts
from tavt_kit.models.token_reduction import Pick, TokenState

_NOTHING = LayerCosts(0, 0, 0, 0, 0, 0, 0, 0)


def is_whole(model: nn.Module) -> bool:
    """Whether the model says that nothing of it can be dropped."""
    return isinstance(getattr(model, "static_reason", None), str)


def pass_macs(model: nn.Module, image_size: tuple[int, int]) -> int:
    """Multiply-adds of one image by torch's own counter: convolutions, matrix products and attention.

    Attention is run as the products it consists of: torch counts nothing for its fused kernel on a CPU.
    """
    parameter = next(model.parameters())
    blank = torch.zeros(1, 3, *image_size, device=parameter.device, dtype=parameter.dtype)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(blank)
    return int(counter.get_total_flops()) // 2


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
        return pass_macs(self.model, self.image_size), (_NOTHING,), HeadCosts(0)

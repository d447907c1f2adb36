"""Official-style TAVT on any plain ViT: whole maps, column sums, restored tokens, and LayerScale folded away."""

from __future__ import annotations

import copy
from typing import Any

import torch
from reference_step import ReferenceViT
from torch import Tensor, nn

from tavt_kit.core.schedule import TokenSchedule


class OfficialTavt(nn.Module):
    """Logits of ``reference_step.ReferenceViT`` under one schedule.

    Args:
        bare: timm's ViT; its weights are copied.
        schedule: The dense one runs plainly; under any other each layer sorts and gathers, even where all tokens stay,
            as the official code does.
    """

    def __init__(self, bare: nn.Module, schedule: TokenSchedule) -> None:
        super().__init__()
        self.model = ReferenceViT(without_layer_scale(bare)).eval()
        self.lengths = schedule.counts if len(set(schedule.counts)) > 1 else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        logits: Tensor = self.model(images, self.lengths)[0]
        return logits


def without_layer_scale(bare: nn.Module) -> nn.Module:
    """A copy in which each LayerScale is part of the linear layer before it: g (W x + b) = (g W) x + g b."""
    model: Any = copy.deepcopy(bare)
    with torch.no_grad():
        for block in model.blocks:
            for name, linear in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
                scale = getattr(block, name)
                if isinstance(scale, nn.Identity):
                    continue
                linear.weight.mul_(scale.gamma.unsqueeze(1))
                linear.bias.mul_(scale.gamma)
                setattr(block, name, nn.Identity())
    found: nn.Module = model
    return found

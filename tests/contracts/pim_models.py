"""Small shaken PIMs over any of timm's backbones."""

from __future__ import annotations

from typing import Any

import torch

from tavt_kit.models.backbones.pim import Pim
from tests.contracts.zoo import shake

SMALL: dict[str, Any] = {"num_classes": 7, "fpn_size": 16, "num_selects": (12, 10, 6, 4), "img_size": 64}
CNNS = ("convnext_atto", "regnetx_002", "resnet18", "efficientnet_b0")
SWIN = "swin_tiny_patch4_window7_224"
VITS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224")


def small(backbone: str, **changes: Any) -> Any:
    """In eval mode; ``changes`` go to ``Pim``."""
    torch.manual_seed(0)
    given = {**SMALL, **changes}
    if "vit" in backbone or "eva" in backbone or "deit" in backbone:
        given = {"embed_dim": 48, "depth": 4, "num_heads": 3, **given}
    if "eva" in backbone:
        given["img_size"] = 56
    elif backbone == SWIN:  # levels of 64, 16, 4 and 4 tokens
        given |= {"window_size": 2, "num_selects": (20, 8, 4, 4), "embed_dim": 24, "depths": (2, 2, 2, 2),
                  "num_heads": (1, 2, 4, 8)}  # fmt: skip
    elif backbone in CNNS:
        given["img_size"] = 128
    model = Pim(backbone, **given).eval()
    shake(model, 0)
    return model

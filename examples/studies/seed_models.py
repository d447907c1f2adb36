"""The networks of the seeds' own tables, with random weights: time and memory do not depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from reference_step import ReferenceViT
from torch import Tensor, nn

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import LeanViT, wrap

SPEED = {"ViT-S/16": "vit_small_patch16_224", "ViT-B/16": "vit_base_patch16_224",
         "Swin-T": "swin_tiny_patch4_window7_224", "ViTAEv2-S": "vitaev2_s"}  # fmt: skip
"""ViTAEv2's speed table (arXiv 2202.10108) without T2T-ViT, which timm does not have."""

TAVT = {"own dense": "official-style ViT-B/16, dense", "overlap": "official-style ViT-B/16, overlapping split, dense",
        "TransFG": "official-style TransFG, overlapping split"}  # fmt: skip
"""Denominator -> row of the TAVT table."""

CLASSES = 200


class OfficialViT(nn.Module):
    """Official-style TAVT: whole maps, column sums, restored tokens.

    Args:
        bare: timm's ViT, its patches overlapping or not; its weights are copied.
        lengths: Tokens kept after each layer; ``None`` drops nothing.
    """

    def __init__(self, bare: Any, lengths: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.model = ReferenceViT(bare)
        self.model.patch.stride = bare.patch_embed.proj.stride
        self.lengths = lengths

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        logits: Tensor = self.model(images, self.lengths)[0]
        return logits


class OfficialTransFg(OfficialViT):
    """Official-style TransFG (He et al., AAAI 2022, section 3.3): the product of whole attention maps, then the parts.

    Each head's product of the maps of all layers but the last says which patch is most of the class token; these
    patches and the class token go through the last layer. All maps are kept until they are multiplied.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes)."""
        model = self.model
        x = model.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + model.pos_embed
        maps = []
        for layer in model.layers[:-1]:
            x, attention, _ = layer(x, None)
            maps.append(attention)
        rolled = maps[0]
        for attention in maps[1:]:
            rolled = attention @ rolled
        best = 1 + rolled[:, :, 0, 1:].argmax(dim=2)  # (B, H)
        parts = x.gather(1, best.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x, _, _ = model.layers[-1](torch.cat([x[:, :1], parts], dim=1), None)
        logits: Tensor = model.head(model.norm(x)[:, 0])
        return logits


Table = Mapping[str, tuple[int, Callable[[], nn.Module]]]
"""Row -> image size, and what makes the network."""


def vitaev2_table(sizes: tuple[int, ...]) -> Table:
    """Every network at every size, ViT-B/16 at the first size being what the others are compared with."""
    pairs = [(title, name, size) for size in sizes for title, name in SPEED.items()]
    return {f"{title} at {size}": (size, partial(_plain, name, size)) for title, name, size in pairs}


def _plain(name: str, size: int) -> nn.Module:
    model: nn.Module = timm.create_model(name, img_size=size)
    return model.eval()


def tavt_table(size: int, ratio: float, name: str = "base_patch16") -> Table:
    """Official-style models and ours; the taper is ``ratio``, TAVT's own default being 0.2."""
    own, transfg = f"vit_{name}_224", f"transfg_{name}"
    makers: dict[str, Callable[[], nn.Module]] = {
        TAVT["own dense"]: lambda: OfficialViT(created(own, size)),
        f"official-style TAVT, taper {ratio:g}": lambda: OfficialViT(*tapered(created(own, size), ratio)),
        "ours, dense": lambda: lean(created(own, size), None),
        f"ours, taper {ratio:g}": lambda: lean(created(own, size), ratio),
        TAVT["overlap"]: lambda: OfficialViT(created(f"vit_{name}_overlap12", size)),
        "official-style TransFG": lambda: OfficialTransFg(created(transfg, size)),
        TAVT["TransFG"]: lambda: OfficialTransFg(created(f"{transfg}_overlap12", size)),
        "our TransFG, overlapping split": lambda: lean(created(f"{transfg}_overlap12", size), None),
    }
    return {row: (size, make) for row, make in makers.items()}


def created(name: str, size: int) -> nn.Module:
    """By timm, or by the kit through timm's registry."""
    model: nn.Module = timm.create_model(name, img_size=size, num_classes=CLASSES)
    return model.eval()


def tapered(bare: nn.Module, ratio: float) -> tuple[nn.Module, tuple[int, ...]]:
    """The model, and TAVT's geometric taper for it."""
    model = wrap(bare)
    return bare, TokenSchedule.taper(model.layout, ratio).counts


def lean(bare: nn.Module, ratio: float | None) -> nn.Module:
    """Ours, dense or tapered."""
    model = wrap(bare)
    taper = None if ratio is None else TokenSchedule.taper(model.layout, ratio)
    return LeanViT(model, taper)

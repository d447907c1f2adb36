"""Mix-ViT's hybrid model (Yu et al., Pattern Recognition 2023), as its evaluation runs it.

A ResNet gives a feature map, the grouping unit (region grouping, Huang and Li, CVPR 2020) turns it into one feature
for each of a few learned parts, and a small transformer reads these and a class token: six tokens with five parts. The
branch that mixes tokens is for training alone. (Mix-ViT's other model, the pure ViT, is a plain ViT in evaluation.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.registry import FGVC_EVALUATION, register
from tavt_kit.models.timm_import import timm


class StandardisedConv(nn.Conv2d):
    """A convolution whose filters are standardised first (Qiao et al., 2019); the official epsilon is 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W')."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (variance + 1e-5).sqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Bottleneck(nn.Module):
    """Three convolutions, each with a group norm, and a projected shortcut where the shape changes."""

    def __init__(self, width_in: int, width_out: int, stride: int, projected: bool) -> None:
        super().__init__()
        middle = width_out // 4
        self.conv1 = StandardisedConv(width_in, middle, 1, bias=False)
        self.gn1 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv2 = StandardisedConv(middle, middle, 3, stride, 1, bias=False)
        self.gn2 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv3 = StandardisedConv(middle, width_out, 1, bias=False)
        self.gn3 = nn.GroupNorm(32, width_out, eps=1e-6)
        self.downsample = StandardisedConv(width_in, width_out, 1, stride, bias=False) if projected else None
        # One group for each channel, and the default epsilon: so in the official code.
        self.gn_proj = nn.GroupNorm(width_out, width_out) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W')."""
        shortcut = x
        if self.downsample is not None and self.gn_proj is not None:
            shortcut = self.gn_proj(self.downsample(x))
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(shortcut + self.gn3(self.conv3(y)))


class ResNetV2(nn.Module):
    """The three stages of a ResNet-50 with group norm that end at 1/16 of the image's side."""

    def __init__(self, blocks: Sequence[int], width: int, in_chans: int) -> None:
        super().__init__()
        self.conv = StandardisedConv(in_chans, width, 7, 2, 3, bias=False)
        self.gn = nn.GroupNorm(32, width, eps=1e-6)
        self.stages = nn.Sequential()
        wide = width
        for stage, count in enumerate(blocks):
            out = width * 4 * 2**stage
            units = [
                Bottleneck(wide if unit == 0 else out, out, 2 if unit == 0 and stage > 0 else 1, unit == 0)
                for unit in range(count)
            ]
            self.stages.append(nn.Sequential(*units))
            wide = out
        self.num_features = wide

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H / 16, W / 16)."""
        return self.stages(F.max_pool2d(F.relu(self.gn(self.conv(x))), 3, 2))  # type: ignore[no-any-return]


class GroupingUnit(nn.Module):
    """Soft assignment of places to parts, and the feature of each part."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(parts, width, 1, 1) * width**-0.5)
        self.smooth_factor = nn.Parameter(torch.zeros(parts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> part features (B, C, P) of length 1, and the assignment (B, P, h, w)."""
        centres = self.weight[:, :, 0, 0]  # (P, C)
        smooth = self.smooth_factor.sigmoid()
        places = x.flatten(2)  # (B, C, hw)
        squares = places.square().sum(1, keepdim=True) + centres.square().sum(1)[:, None]
        nearness = (2 * centres @ places - squares).clamp(max=0)  # minus the squared distance (B, P, hw)
        assign = (nearness / smooth[:, None]).softmax(dim=1)
        mean = (assign @ places.transpose(1, 2)) / assign.sum(2, keepdim=True)  # (B, P, C)
        features = F.normalize((mean - centres) / (smooth / 2).sqrt()[:, None], dim=2)
        return features.transpose(1, 2), assign.reshape(*assign.shape[:2], *x.shape[2:])


class MixVitHybrid(nn.Module):
    """ResNet -> parts -> transformer -> class token, of images of at least 32 x 32 pixels."""

    def __init__(
        self,
        num_classes: int = 1000,
        img_size: int | Sequence[int] = 448,
        num_parts: int = 5,
        embed_dim: int = 768,
        depth: int = 2,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        resnet_blocks: Sequence[int] = (3, 4, 9),
        resnet_width: int = 64,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < 32:
            raise UnsupportedBackbone(f"Mix-ViT's ResNet needs images of at least 32x32, got {height}x{width}")
        self.image_size, self.num_tokens, self.num_classes = (int(height), int(width)), num_parts + 1, num_classes
        self.static_reason = f"it has a class token and {num_parts} parts, so dropping saves nothing"
        self.resnet = ResNetV2(resnet_blocks, resnet_width, in_chans)
        self.grouping = GroupingUnit(self.resnet.num_features, num_parts)
        self.proj = nn.Linear(self.resnet.num_features, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_tokens, embed_dim))
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        block = timm.models.vision_transformer.Block
        self.blocks = nn.Sequential(
            *(block(embed_dim, num_heads, mlp_dim / embed_dim, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def embed_parts(self, parts: Tensor) -> Tensor:
        """Part features (B, C, P) -> the transformer's tokens (B, 1 + P, D)."""
        tokens = self.proj(parts.transpose(1, 2))
        return torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + P, D), normed."""
        parts, _ = self.grouping(self.resnet(x))
        return self.norm(self.blocks(self.embed_parts(parts)))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 1 + P, D) -> logits (B, K), or the class token."""
        return x[:, 0] if pre_logits else self.head(x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))


register(__name__, MixVitHybrid, {"mixvit_hybrid_r50": {}}, {**FGVC_EVALUATION, "first_conv": "resnet.conv"})

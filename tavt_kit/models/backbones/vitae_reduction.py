"""Reduction cells of ViTAE and ViTAEv2 (RC): fewer, wider tokens from an image or from the tokens of a stage.

``y = attention(norm(pyramid(x))) + convolutions(x)``, then ``y + mlp(norm(y))``, where the pyramid (PRM) looks at each
place at several dilations, and the convolutions (PCM) keep detail. Attributes bear the official key names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.vitae_attention import Grid, KernelAttention, PassingAttention, WindowAttention
from tavt_kit.models.backbones.vitae_cells import check_settings, conv3x3
from tavt_kit.models.timm_import import timm

DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2))
"""Of the pyramid, by stage."""
_KERNELS = (7, 3, 3, 3)
_STRIDES = {4: (2, 2, 1), 2: (2, 1, 1), 1: (1, 1, 1)}
"""Of the three convolutions, by how much a stage thins its grid."""

_KINDS = {1: ("performer", "performer_less", "transformer", "embedding", "none"), 2: ("window", "transformer")}
_WINDOW = 7
"""Windows of official reduction cells, whatever size those of the normal cells have."""


class _Pyramid(nn.Module):
    """One convolution for each dilation, side by side: (B, C, H, W) -> (B, H * W / ratio ** 2, dilations * width)."""

    def __init__(self, width_in: int, width: int, kernel: int, ratio: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for dilation in dilations:
            padding = math.ceil(((kernel - 1) * dilation + 1 - ratio) / 2)
            conv = nn.Conv2d(width_in, width, kernel, ratio, padding, dilation)
            self.convs.append(nn.Sequential(conv, nn.GELU()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x) for conv in self.convs], dim=1).flatten(2).transpose(1, 2)


class _Patches(nn.Module):
    """Plain patches: (B, C, H, W) -> (B, N, D)."""

    def __init__(self, width_in: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width_in, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class _ReducingPerformer(KernelAttention):
    """Random features, with the norms and the feed-forward half of the cell."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out, passing=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(out)
        self.mlp = nn.Sequential(nn.Linear(out, out), nn.GELU(), nn.Linear(out, out))


class _ReducingBlock(nn.Module):
    """Full or window attention, with the norms and the feed-forward half of the cell."""

    def __init__(self, dim: int, out: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(out)
        self.attn = attention
        self.mlp = timm.layers.Mlp(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x)  # type: ignore[no-any-return]


class ReductionCell(nn.Module):
    """See the module.

    Args:
        stage: Index, which fixes kernel and dilations.
        kind: ``performer`` (random features), ``window``, ``transformer`` (full attention), ``performer_less`` (the
            pyramid alone), ``embedding`` (patches, positions and a class token) or ``none`` (nothing).
        width_in: Channels that come in.
        embed: Channels of each of the pyramid's convolutions, and inside the others.
        out: Width of the tokens that leave.
        ratio: How much each side of the grid shrinks.
        heads: Attention heads of ``window`` and ``transformer``.
        group: Groups of the convolutions.
        entering: Rows and columns that come in; a multiple of ``ratio``.
        version: 1 or 2.
        official: Do as the official code does: in the first version a ``transformer`` is the pyramid alone, and in the
            second windows are of 7x7 and see their padding.
        window: Side of a window, where not official.
        relative_pos: For windows.

    Raises:
        UnsupportedBackbone: A kind, ratio or width that the cell cannot have.
    """

    def __init__(
        self,
        stage: int,
        kind: str,
        width_in: int,
        embed: int,
        out: int,
        ratio: int,
        heads: int,
        group: int,
        entering: Grid,
        *,
        version: int = 1,
        official: bool = True,
        window: int = _WINDOW,
        relative_pos: bool = False,
    ) -> None:
        super().__init__()
        check_settings("reduction", version, kind, _KINDS[version], out, heads, group)
        self.kind, self.entering = kind, entering
        self.grid = (entering[0] // ratio, entering[1] // ratio)
        self.attn: Any = None
        self.PCM: nn.Module | None = None
        self.PRM: nn.Module = nn.Identity()
        if kind == "none":
            _check(width_in == out and ratio == 1, kind, "the width and the grid that come in", f"{out}, ratio {ratio}")
            return
        if kind == "embedding":
            self.PRM = _Patches(width_in, out, ratio)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, out))
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], out))
            timm.layers.trunc_normal_(self.cls_token, std=0.02)
            timm.layers.trunc_normal_(self.pos_embed, std=0.02)
            return
        _check(ratio in _STRIDES, kind, "a ratio of 1, 2 or 4", str(ratio))
        self.PRM = _Pyramid(width_in, embed, _KERNELS[stage], ratio, DILATIONS[stage])
        dim = embed * len(DILATIONS[stage])
        if kind == "performer_less" or (kind == "transformer" and version == 1 and official):
            _check(dim == out, kind, f"a token width of {dim} (all it does is the pyramid)", str(out))
            return
        widths = (width_in, embed, embed, out)
        _check(all(width % group == 0 for width in widths), kind, f"widths that {group} groups divide", str(widths))
        self.PCM = _convolutions(widths, _STRIDES[ratio], group, version)
        if kind == "performer":
            self.attn = _ReducingPerformer(dim, out)
        elif kind == "transformer":
            self.attn = _ReducingBlock(dim, out, PassingAttention(dim, out, heads))
        else:
            options = {"relative_pos": relative_pos, "masked": not official, "own_table": not official}
            side = _WINDOW if official else window
            self.attn = _ReducingBlock(dim, out, WindowAttention(dim, out, heads, side, self.grid, **options))

    def forward(self, x: Tensor) -> Tensor:
        """An image (B, C, H, W), or the tokens (B, N, C) of the stage before -> tokens (B, N', out)."""
        if self.kind == "none":
            return x
        if x.dim() == 3:
            x = x.transpose(1, 2).reshape(-1, x.shape[2], *self.entering)
        tokens: Tensor = self.PRM(x)
        if self.kind == "embedding":
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
            return tokens + self.pos_embed
        if self.attn is None or self.PCM is None:
            return tokens
        tokens = self.attn(self.attn.norm1(tokens)) + self.PCM(x).flatten(2).transpose(1, 2)
        return tokens + self.attn.mlp(self.attn.norm2(tokens))  # type: ignore[no-any-return]


def _convolutions(widths: Sequence[int], strides: Sequence[int], group: int, version: int) -> nn.Sequential:
    """Three convolutions; the order of norm and activation differs between the versions."""
    first, second, third = (
        conv3x3(width, out, stride, group) for (width, out), stride in zip(pairwise(widths), strides, strict=True)
    )
    norm = nn.BatchNorm2d(widths[2])
    if version == 1:
        return nn.Sequential(first, nn.SiLU(), second, norm, nn.SiLU(), third, nn.SiLU())
    return nn.Sequential(first, nn.BatchNorm2d(widths[1]), nn.SiLU(), second, norm, nn.SiLU(), third)


def _check(holds: bool, kind: str, wanted: str, got: str) -> None:
    if not holds:
        raise UnsupportedBackbone(f"a reduction cell of kind {kind!r} has {wanted}, got {got}")

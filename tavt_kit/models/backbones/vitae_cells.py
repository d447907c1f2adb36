"""Normal cells of ViTAE and ViTAEv2 (NC): attention and convolutions side by side, then a feed-forward half.

``x + attention(norm(x)) + convolutions(x)``, then ``x + mlp(norm(x))``: the convolutions see the tokens on their grid,
not normed. Attributes bear the official key names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.backbones.vitae_attention import Grid, KernelAttention, WindowAttention
from tavt_kit.models.timm_import import timm

FULL = ("transformer", "transformer_shallow")
"""Kinds of cells with full attention."""

_KINDS = {1: ("transformer", "transformer_shallow", "performer"), 2: ("transformer", "window")}


class NormalPerformer(KernelAttention):
    """Random features in a normal cell; its own norm is in every official file and is never used."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, passing=False)
        self.norm1 = nn.LayerNorm(dim)


class NormalCell(nn.Module):
    """See the module.

    Args:
        dim: Width, D.
        kind: ``transformer`` (full attention), ``transformer_shallow`` (the same with two convolutions instead of
            three), ``performer`` (first version) or ``window`` (second).
        heads: Attention heads.
        group: Groups of the convolutions.
        hidden: Width of the feed-forward half and of the first convolution.
        grid: Rows and columns of patches.
        prefix: Tokens before the patches (a class token), which the convolutions leave out.
        version: 1 or 2; the first ends its three convolutions with SiLU.
        drop_path: Probability that training leaves a branch out.
        windows: Options of ``WindowAttention``: ``window``, ``relative_pos``, ``masked``.

    Raises:
        UnsupportedBackbone: No such kind in this version, or widths that heads or groups do not divide.
    """

    def __init__(
        self,
        dim: int,
        kind: str,
        heads: int,
        group: int,
        hidden: int,
        grid: Grid,
        *,
        prefix: int = 0,
        version: int = 1,
        drop_path: float = 0.0,
        windows: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_settings("normal", version, kind, _KINDS[version], dim, heads, group)
        self.kind, self.grid, self.prefix = kind, grid, prefix
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.norm1 = norm(dim)
        self.attn = self._attention(dim, heads, windows or {"window": 7})
        self.norm2 = norm(dim)
        self.mlp = timm.layers.Mlp(dim, hidden)
        self.PCM = _convolutions(dim, hidden, group, short=kind == "transformer_shallow", last_silu=version == 1)
        self.drop_path = timm.layers.DropPath(drop_path) if drop_path else nn.Identity()

    def _attention(self, dim: int, heads: int, windows: dict[str, Any]) -> nn.Module:
        if self.kind == "performer":
            return NormalPerformer(dim)
        if self.kind == "window":
            return WindowAttention(dim, dim, heads, grid=self.grid, **windows)
        return timm.layers.Attention(dim, heads, qkv_bias=True)  # type: ignore[no-any-return]

    def local(self, x: Tensor) -> Tensor:
        """The convolutions: all tokens (B, N, D) -> (B, patches, D)."""
        places = x[:, self.prefix :].transpose(1, 2).reshape(-1, x.shape[2], *self.grid)
        return self.PCM(places).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def add(self, x: Tensor, mixed: Tensor, local: Tensor) -> Tensor:
        """Tokens (B, n, D), what attention gave each of them, and what the convolutions gave the patches among them."""
        x = x + self.drop_path(mixed)
        local = self.drop_path(local)
        if not self.prefix:
            return x + local
        return torch.cat([x[:, : self.prefix], x[:, self.prefix :] + local], dim=1)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward half: (B, n, D) -> (B, n, D)."""
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        local = self.local(x)
        return self.feed(self.add(x, self.attn(self.norm1(x)), local))


def _convolutions(dim: int, hidden: int, group: int, *, short: bool, last_silu: bool) -> nn.Sequential:
    conv: Callable[..., nn.Module] = partial(conv3x3, group=group)
    steps = [conv(dim, hidden), nn.BatchNorm2d(hidden), nn.SiLU(), conv(hidden, dim)]
    if not short:
        steps += [nn.BatchNorm2d(dim), nn.SiLU(), conv(dim, dim), *([nn.SiLU()] if last_silu else [])]
    return nn.Sequential(*steps)


def conv3x3(width: int, out: int, stride: int = 1, group: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the grid, or thins it by ``stride``."""
    return nn.Conv2d(width, out, 3, stride, 1, groups=group)


def check_settings(
    cell: str, version: int, kind: str, kinds: tuple[str, ...], dim: int, heads: int, group: int
) -> None:
    """Check what both kinds of cells ask of their settings.

    Raises:
        UnsupportedBackbone: No such kind in this version, or a width that heads or groups do not divide.
    """
    if kind not in kinds:
        raise UnsupportedBackbone(
            f"{cell} cells of ViTAE{'v2' if version == 2 else ''} are {', '.join(kinds)}, got {kind!r}"
        )
    if min(heads, group) < 1 or dim % heads or dim % group:
        raise UnsupportedBackbone(
            f"attention heads and groups of convolutions divide the width of a cell, but {heads} heads and {group} "
            f"groups were asked for at a width of {dim}; give others"
        )

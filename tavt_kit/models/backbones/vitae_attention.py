"""The attentions of ViTAE and ViTAEv2 beside the ordinary one: random features, windows, and values passed on.

Sources: ViTAE (Xu et al., NeurIPS 2021), ViTAEv2 (Zhang et al., IJCV 2023); random features: Performer (Choromanski
et al., ICLR 2021), as used by T2T-ViT. Attributes bear the official key names.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.timm_import import timm

Grid = tuple[int, int]
"""Rows and columns."""


class KernelAttention(nn.Module):
    """Attention by positive random features, linear in the tokens; one head.

    The projection ``w`` (features, out) is drawn once and never trained. It is a buffer here and a frozen parameter in
    the official code: under the same key, but not to be thawed by mistake.

    Args:
        dim: Width that comes in.
        out: Width of queries, keys, values and the result; half as many features.
        passing: Whether the values are added to the result, as in reduction cells, which have no other residual.
    """

    w: Tensor

    def __init__(self, dim: int, out: int, *, passing: bool) -> None:
        super().__init__()
        self.passing = passing
        self.kqv = nn.Linear(dim, 3 * out)
        self.proj = nn.Linear(out, out)
        features = out // 2
        self.register_buffer("w", nn.init.orthogonal_(torch.empty(features, out)) * features**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim), normed -> (B, N, out)."""
        k, q, v = self.kqv(x).chunk(3, dim=-1)
        k, q = self._features(k), self._features(q)  # (B, N, m)
        total = q @ k.sum(dim=1).unsqueeze(2)  # (B, N, 1)
        mixed = q @ (k.transpose(1, 2) @ v) / (total + 1e-8)
        mixed = self.proj(mixed)
        return v + mixed if self.passing else mixed  # type: ignore[no-any-return]

    def _features(self, x: Tensor) -> Tensor:
        """exp(w x - |x|^2 / 2) / sqrt(m): (B, N, out) -> (B, N, m)."""
        exponent = x @ self.w.t() - x.square().sum(dim=-1, keepdim=True) / 2
        return exponent.exp() / math.sqrt(len(self.w))


class PassingAttention(nn.Module):
    """Full attention of a reduction cell: other widths in and out, no query/key/value bias, the values passed on."""

    def __init__(self, dim: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * out, bias=False)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim), normed -> (B, N, out)."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return join_heads(v) + self.proj(join_heads(mixed))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Attention inside windows that do not overlap or shift.

    A grid that windows do not fill is padded all round with zeros. In the official code these are attended like
    tokens, which ``masked`` mends (and so changes what every trained model computes). A window is at most as large as
    the shorter side of the grid.

    Args:
        dim: Width that comes in.
        out: Width of the result.
        heads: Attention heads.
        window: Side of a window in tokens.
        grid: Rows and columns of tokens.
        relative_pos: Whether a learned bias by relative position is added.
        masked: Whether padding is hidden.
        own_table: Whether the bias table follows a window that the grid makes smaller; a reduction cell's does not.

    Raises:
        UnsupportedBackbone: A bias table for other windows than the grid allows.
    """

    relative_position_index: Tensor
    hidden: Tensor | None

    def __init__(
        self,
        dim: int,
        out: int,
        heads: int,
        window: int,
        grid: Grid,
        *,
        relative_pos: bool = False,
        masked: bool = False,
        own_table: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.grid, self.side = heads, grid, min(window, *grid)
        table = self.side if own_table else window
        if relative_pos and table != self.side:
            raise UnsupportedBackbone(
                f"relative positions of {table}x{table} windows need a grid of at least {table}x{table} tokens in "
                f"every reduction cell with windows, but one has {grid[0]}x{grid[1]}; take a larger image"
            )
        if relative_pos:
            places = (2 * table - 1) ** 2
            self.relative_position_bias_table = nn.Parameter(torch.zeros(places, heads))
            timm.layers.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.relative_pos = relative_pos
        self.register_buffer("relative_position_index", _relative_places(table))
        self.register_buffer("hidden", _hidden(grid, self.side) if masked else None, persistent=False)
        self.qkv = nn.Linear(dim, 3 * out)
        self.proj = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim), normed -> (B, N, out)."""
        windows = cut_windows(x, self.grid, self.side)  # (B, W, P, dim)
        count, places, width = windows.shape[1], self.side**2, self.proj.in_features
        parts = self.qkv(windows).reshape(-1, count, places, 3, self.heads, width // self.heads)
        # Windows and heads side by side: a bias for each window needs no repeating over the batch.
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)  # (B, W * H, P, d)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(count))
        mixed = mixed.reshape(-1, count, self.heads, places, width // self.heads).transpose(2, 3)
        return merge_windows(self.proj(mixed.flatten(3)), self.grid, self.side)

    def _bias(self, windows: int) -> Tensor | None:
        """(1, W * H, P, P), or None where nothing is added."""
        bias = None
        if self.relative_pos:
            index = self.relative_position_index
            rows = self.relative_position_bias_table[index.flatten()].reshape(*index.shape, -1)  # (P, P, H)
            bias = rows.permute(2, 0, 1).unsqueeze(0).expand(windows, -1, -1, -1)
        if self.hidden is not None:
            bias = self.hidden.expand(-1, self.heads, self.side**2, -1) + (0.0 if bias is None else bias)
        return None if bias is None else bias.flatten(0, 1).unsqueeze(0)


def split_heads(packed: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(B, N, 3 * D) -> queries, keys and values, each (B, H, N, D / H)."""
    parts = packed.reshape(*packed.shape[:2], 3, heads, packed.shape[2] // (3 * heads))
    return tuple(parts.permute(2, 0, 3, 1, 4).unbind(0))


def join_heads(x: Tensor) -> Tensor:
    """(B, H, N, d) -> (B, N, H * d)."""
    return x.transpose(1, 2).flatten(2)


def _padding(grid: Grid, side: int) -> tuple[int, int, int, int]:
    """Before and after the columns, then the rows, as ``F.pad`` counts; the odd one comes after."""
    rows, columns = (-edge % side for edge in grid)
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def cut_windows(x: Tensor, grid: Grid, side: int) -> Tensor:
    """(B, N, C) on a grid -> (B, windows, side * side, C), padded with zeros."""
    left, right, top, bottom = _padding(grid, side)
    rows, columns = (grid[0] + top + bottom) // side, (grid[1] + left + right) // side
    x = x.reshape(-1, *grid, x.shape[2])
    if any((left, right, top, bottom)):
        x = F.pad(x, (0, 0, left, right, top, bottom))
    x = x.reshape(-1, rows, side, columns, side, x.shape[3]).transpose(2, 3)
    return x.reshape(-1, rows * columns, side * side, x.shape[5])


def merge_windows(windows: Tensor, grid: Grid, side: int) -> Tensor:
    """The way back, without the padding: (B, windows, side * side, C) -> (B, N, C).

    The batch is left to ``reshape``: read as a number it would be baked into an exported graph, whose logits at
    another batch would be wrong without a word.
    """
    left, right, top, bottom = _padding(grid, side)
    rows, columns = (grid[0] + top + bottom) // side, (grid[1] + left + right) // side
    x = windows.reshape(-1, rows, columns, side, side, windows.shape[3]).transpose(2, 3)
    x = x.reshape(-1, rows * side, columns * side, x.shape[5])
    return x[:, top : top + grid[0], left : left + grid[1]].flatten(1, 2)


def _relative_places(side: int) -> Tensor:
    """(P, P): the row of a bias table for each query and key of a window, as in Swin (Liu et al., ICCV 2021)."""
    steps: Any = torch.arange(side)
    places = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)  # (2, P)
    apart = places[:, :, None] - places[:, None, :] + side - 1
    return apart[0] * (2 * side - 1) + apart[1]


def _hidden(grid: Grid, side: int) -> Tensor | None:
    """(W, 1, 1, P): minus infinity at padding, or None where there is none."""
    if not any(edge % side for edge in grid):
        return None
    seen = cut_windows(torch.ones(1, grid[0] * grid[1], 1), grid, side)[0, :, :, 0]  # (W, P)
    return torch.zeros_like(seen).masked_fill(seen == 0, float("-inf"))[:, None, None]

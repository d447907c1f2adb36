"""ViTAE (Xu et al., NeurIPS 2021) and ViTAEv2 (Zhang et al., IJCV 2023): the models.

Stages of a reduction cell and normal cells; the head reads the mean of the patches. Modules bear the official key
names, so that official weights fit as they are. What the official code does against its own intent is kept, for
trained weights depend on it; see ``Vitae``.

    normal cell     ``x + attention(norm(x)) + convolutions(x)``, then ``x + mlp(norm(x))``: the convolutions see the
                    tokens on their grid, not normed
    reduction cell  ``y = attention(norm(pyramid(x))) + convolutions(x)``, then ``y + mlp(norm(y))``: the pyramid (PRM)
                    looks at each place at several dilations, the convolutions (PCM) keep detail
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.errors import DataError
from tavt_kit.models.backbones.registry import register
from tavt_kit.models.timm_import import timm

Grid = tuple[int, int]
"""Rows and columns."""


class KernelAttention(nn.Module):
    """Attention by positive random features (Performer, Choromanski et al., ICLR 2021), linear in the tokens; one head.

    The projection ``w`` (features, out) is drawn once and never trained. It is a buffer here and a frozen parameter in
    the official code: under the same key, but not to be thawed by mistake.

    Queries, keys, values and the result are ``out`` wide, with half as many features. Where it is ``passing``, the
    values are added to the result, as in reduction cells, which have no other residual.
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
        packed = self.qkv(x)
        parts = packed.reshape(*packed.shape[:2], 3, self.heads, packed.shape[2] // (3 * self.heads))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v)
        passed: Tensor = v.transpose(1, 2).flatten(2)
        return passed + self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Attention inside windows that do not overlap or shift.

    A grid that windows do not fill is padded all round with zeros, which are attended like tokens, as officially. A
    window is at most as large as the shorter side of the grid. The bias table follows a window that the grid makes
    smaller where it is its ``own_table``; a reduction cell's does not.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        out: int,
        heads: int,
        window: int,
        grid: Grid,
        *,
        relative_pos: bool = False,
        own_table: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.grid, self.side = heads, grid, min(window, *grid)
        table = self.side if own_table else window
        if relative_pos:
            places = (2 * table - 1) ** 2
            self.relative_position_bias_table = nn.Parameter(torch.zeros(places, heads))
            timm.layers.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.relative_pos = relative_pos
        self.register_buffer("relative_position_index", timm.layers.gen_relative_position_index((table, table)))
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
        if not self.relative_pos:
            return None
        index = self.relative_position_index
        rows = self.relative_position_bias_table[index.flatten()].reshape(*index.shape, -1)  # (P, P, H)
        return rows.permute(2, 0, 1).unsqueeze(0).expand(windows, -1, -1, -1).flatten(0, 1).unsqueeze(0)


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


FULL = ("transformer", "transformer_shallow")
"""Kinds of cells with full attention."""


class NormalPerformer(KernelAttention):
    """Random features in a normal cell; its own norm is in every official file and is never used."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, passing=False)
        self.norm1 = nn.LayerNorm(dim)


class NormalCell(nn.Module):
    """See the module.

    Args:
        kind: ``transformer`` (full attention), ``transformer_shallow`` (the same with two convolutions instead of
            three), ``performer`` (first version) or ``window`` (second).
        hidden: Width of the feed-forward half and of the first convolution.
        prefix: Tokens before the patches (a class token), which the convolutions leave out.
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
        windows: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.grid, self.prefix = kind, grid, prefix
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.norm1 = norm(dim)
        self.attn: nn.Module
        if kind == "performer":
            self.attn = NormalPerformer(dim)
        elif kind == "window":
            self.attn = WindowAttention(dim, dim, heads, grid=grid, **(windows or {"window": 7}))
        else:
            self.attn = timm.layers.Attention(dim, heads, qkv_bias=True)
        self.norm2 = norm(dim)
        self.mlp = timm.layers.Mlp(dim, hidden)
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, groups=group)
        steps = [conv(dim, hidden), nn.BatchNorm2d(hidden), nn.SiLU(), conv(hidden, dim)]
        if kind != "transformer_shallow":
            steps += [nn.BatchNorm2d(dim), nn.SiLU(), conv(dim, dim), *([nn.SiLU()] if version == 1 else [])]
        self.PCM = nn.Sequential(*steps)
        self.drop_path: nn.Module = nn.Identity()

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


DILATIONS = ((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2))
"""Of the pyramid, by stage."""
_KERNELS = (7, 3, 3, 3)
_STRIDES = {4: (2, 2, 1), 2: (2, 1, 1), 1: (1, 1, 1)}
"""Of the three convolutions, by how much a stage thins its grid."""

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
        kind: ``performer`` (random features), ``window``, ``transformer`` (full attention), ``performer_less`` (the
            pyramid alone, as officially is ``transformer`` in the first version), ``embedding`` (patches, positions and
            a class token) or ``none`` (nothing).
        embed: Channels of each of the pyramid's convolutions, and inside the others.
        entering: Rows and columns that come in; a multiple of ``ratio``.
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
        relative_pos: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.entering = kind, entering
        self.grid = (entering[0] // ratio, entering[1] // ratio)
        self.attn: Any = None
        self.PCM: nn.Module | None = None
        self.PRM: nn.Module = nn.Identity()
        if kind == "none":
            return
        if kind == "embedding":
            self.PRM = timm.layers.PatchEmbed(None, ratio, width_in, out)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, out))
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], out))
            timm.layers.trunc_normal_(self.cls_token, std=0.02)
            timm.layers.trunc_normal_(self.pos_embed, std=0.02)
            return
        self.PRM = _Pyramid(width_in, embed, _KERNELS[stage], ratio, DILATIONS[stage])
        dim = embed * len(DILATIONS[stage])
        if kind == "performer_less" or (kind == "transformer" and version == 1):
            return
        widths = (width_in, embed, embed, out)
        first, second, third = (
            nn.Conv2d(width, wide, 3, stride, 1, groups=group)
            for (width, wide), stride in zip(pairwise(widths), _STRIDES[ratio], strict=True)
        )
        norm = nn.BatchNorm2d(embed)
        # The order of norm and activation differs between the versions.
        steps = [nn.SiLU(), second, norm, nn.SiLU(), third] + ([nn.SiLU()] if version == 1 else [])
        self.PCM = nn.Sequential(first, *([] if version == 1 else [nn.BatchNorm2d(embed)]), *steps)
        if kind == "performer":
            self.attn = _ReducingPerformer(dim, out)
        elif kind == "transformer":
            self.attn = _ReducingBlock(dim, out, PassingAttention(dim, out, heads))
        else:
            options = {"relative_pos": relative_pos, "own_table": False}
            self.attn = _ReducingBlock(dim, out, WindowAttention(dim, out, heads, _WINDOW, self.grid, **options))

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


def _second(
    embed: Sequence[int], tokens: Sequence[int], depth: Sequence[int], nc: Sequence[int], rc: Sequence[int]
) -> Mapping[str, Any]:
    return {
        "version": 2, "embed_dims": embed, "token_dims": tokens, "nc_depth": depth, "nc_heads": nc, "rc_heads": rc,
        "downsample_ratios": (4, 2, 2, 2), "rc_tokens": ("window", "window", "transformer", "transformer"),
        "nc_tokens": ("window", "window", "transformer", "transformer"), "rc_group": (1, 16, 32, 64),
        "nc_group": (1, 32, 64, 128), "mlp_ratio": 4.0,
    }  # fmt: skip


def _plain(width: int, depth: int, heads: int) -> Mapping[str, Any]:
    return {
        "embed_dims": (width,) * 3, "token_dims": (width,) * 3, "downsample_ratios": (16, 1, 1), "class_token": True,
        "rc_tokens": ("embedding", "none", "none"), "nc_tokens": ("transformer_shallow",) * 3, "mlp_ratio": 4.0,
        "nc_depth": (0, 0, depth), "nc_heads": (1, 1, heads), "nc_group": (1, 1, width // 4),
    }  # fmt: skip


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vitae_tiny": {},
    "vitae_6m": {"nc_depth": (0, 0, 10)},
    "vitae_13m": {"embed_dims": (64, 64, 160), "token_dims": (64, 64, 320), "nc_depth": (0, 0, 11),
                  "nc_heads": (1, 1, 5)},
    "vitae_small": {"embed_dims": (64, 64, 192), "token_dims": (96, 192, 384), "nc_depth": (0, 0, 14),
                    "nc_heads": (1, 1, 6), "nc_group": (1, 1, 96), "mlp_ratio": 3.0},
    "vitae_base": _plain(768, 12, 12),
    "vitae_large": _plain(1024, 24, 16),
    "vitae_huge": _plain(1280, 32, 16),
    "vitaev2_s": _second((64, 64, 128, 256), (64, 128, 256, 512), (2, 2, 8, 2), (1, 2, 4, 8), (1, 1, 2, 4)),
    "vitaev2_48m": _second((64, 64, 192, 384), (96, 192, 384, 768), (2, 2, 11, 2), (1, 2, 4, 8), (1, 1, 2, 4)),
    "vitaev2_b": _second((96, 96, 256, 512), (128, 256, 512, 1024), (2, 2, 12, 2), (1, 4, 8, 16), (1, 1, 4, 8)),
}  # fmt: skip
"""The official sizes, as arguments that differ from the smallest one's."""


class Stage(nn.Module):
    """A reduction cell and the normal cells after it."""

    def __init__(self, reduction: ReductionCell, cells: Sequence[NormalCell]) -> None:
        super().__init__()
        self.RC = reduction
        self.NC = nn.ModuleList(cells)

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        return self.RC.grid

    def forward(self, x: Tensor) -> Tensor:
        """An image (B, C, H, W) or tokens (B, N, C) -> tokens (B, N', C')."""
        x = self.RC(x)
        for cell in self.NC:
            x = cell(x)
        return x


class Vitae(nn.Module):
    """A ViTAE of either version, with what its code does whether meant or not.

    A reduction cell of the first version of kind ``transformer`` is its pyramid alone; windows of the second attend the
    zeros they are padded with, and those of reduction cells are of 7x7 whatever ``window_size``; a stage's drop-path
    rates begin where the depth of the one stage before it says, not of all.

    Args:
        img_size: (H, W) or one edge; a multiple of all ratios together (16, or 32 with four stages).
        embed_dims: Channels of each of the pyramid's convolutions, by stage, as are all that follow.
        mlp_ratio: Width of the feed-forward half of a normal cell, in tokens' widths.
        class_token: Whether ``embedding`` puts a class token before the patches. The head does not read it.
        drop_path_rate: Rate of the last normal cell while training, rising from 0.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        img_size: int | Sequence[int] = 224,
        embed_dims: Sequence[int] = (64, 64, 128),
        token_dims: Sequence[int] = (64, 64, 256),
        downsample_ratios: Sequence[int] = (4, 2, 2),
        rc_tokens: Sequence[str] = ("performer", "performer", "performer_less"),
        nc_tokens: Sequence[str] = ("transformer", "transformer", "transformer"),
        nc_depth: Sequence[int] = (0, 0, 7),
        rc_heads: Sequence[int] = (1, 1, 1),
        nc_heads: Sequence[int] = (1, 1, 4),
        rc_group: Sequence[int] = (1, 1, 1),
        nc_group: Sequence[int] = (1, 1, 64),
        mlp_ratio: float = 2.0,
        version: int = 1,
        class_token: bool = False,
        window_size: int = 7,
        relative_pos: bool = False,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        whole = math.prod(downsample_ratios)
        if min(height, width) < whole or height % whole or width % whole:
            below = max(whole, height // whole * whole)
            raise DataError(
                f"the stages of this ViTAE shrink an image {whole}-fold, so its edges must be multiples of that, but "
                f"{height}x{width} was asked for; take {below}x{below} or {below + whole}x{below + whole}"
            )
        self.image_size = int(height), int(width)
        self.num_classes, self.class_token = num_classes, class_token
        self.version, self.prefix = version, int(class_token)
        width, grid = in_chans, self.image_size
        self.layers = nn.ModuleList()
        for i in range(len(token_dims)):
            reduction = ReductionCell(
                i, rc_tokens[i], width, embed_dims[i], token_dims[i], downsample_ratios[i], rc_heads[i], rc_group[i],
                grid, version=version, relative_pos=relative_pos,
            )  # fmt: skip
            width, grid = token_dims[i], reduction.grid
            cells = [
                NormalCell(
                    width, nc_tokens[i], nc_heads[i], nc_group[i], round(width * mlp_ratio), grid, prefix=self.prefix,
                    version=version, windows={"window": window_size, "relative_pos": relative_pos},
                )
                for _ in range(nc_depth[i])
            ]  # fmt: skip
            self.layers.append(Stage(reduction, cells))
        self.num_features = width
        self.set_drop_path(drop_path_rate)
        self.fc_norm = nn.LayerNorm(width, eps=1e-6) if class_token else nn.Identity()
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                timm.layers.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_drop_path(self, highest: float) -> None:
        """Another ``drop_path_rate``; a stage's begin where the depth of the one before it says, as officially."""
        stages: list[Any] = list(self.layers)
        depths = [len(stage.NC) for stage in stages]
        rates = torch.linspace(0, highest, sum(depths), device="cpu").tolist()
        for stage, start in zip(stages, [0, *depths[:-1]], strict=True):
            for cell, rate in zip(stage.NC, rates[start:], strict=False):
                cell.drop_path = timm.layers.DropPath(rate) if rate else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last stage's tokens (B, N, D), not normed."""
        for stage in self.layers:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, N, D) -> logits (B, K), or the mean of the patches (B, D) that the last linear layer reads."""
        x = self.fc_norm(x[:, self.prefix :].mean(dim=1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: Vitae) -> dict[str, Tensor]:
    """Fit the position table of another image size, as timm does for a ViT."""
    name = "layers.0.RC.pos_embed"
    own = model.state_dict().get(name)
    fitted = dict(state)
    if own is not None and name in fitted and fitted[name].shape[1] != own.shape[1]:
        grid = model.layers[0].grid
        fitted[name] = timm.layers.resample_abs_pos_embed(fitted[name], new_size=list(grid), num_prefix_tokens=1)  # type: ignore[arg-type]
    return fitted


_EVALUATION = {
    "input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}  # fmt: skip

register(__name__, Vitae, VARIANTS, _EVALUATION)

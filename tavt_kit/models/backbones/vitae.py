"""ViTAE (Xu et al., NeurIPS 2021) and ViTAEv2 (Zhang et al., IJCV 2023): the models.

Stages of a reduction cell and normal cells; the head reads the mean of the patches. Modules bear the official key
names, so that official weights fit as they are. What the official code does against its own intent is kept where
trained weights depend on it; see ``compat``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import DataError, UnsupportedBackbone
from tavt_kit.models.backbones.registry import register
from tavt_kit.models.backbones.vitae_attention import Grid
from tavt_kit.models.backbones.vitae_cells import NormalCell
from tavt_kit.models.backbones.vitae_reduction import DILATIONS, ReductionCell
from tavt_kit.models.backbones.vitae_variants import VARIANTS
from tavt_kit.models.timm_import import timm

_PER_STAGE = ("embed_dims", "token_dims", "downsample_ratios", "rc_tokens", "nc_tokens", "nc_depth", "rc_heads",
              "nc_heads", "rc_group", "nc_group")  # fmt: skip


class Stage(nn.Module):
    """A reduction cell and the normal cells after it."""

    def __init__(self, reduction: ReductionCell, cells: Sequence[NormalCell], prefix: int) -> None:
        super().__init__()
        self.RC = reduction
        self.NC = nn.ModuleList(cells)
        self.prefix = prefix

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
    """A ViTAE of either version.

    Args:
        num_classes: Of the head; 0 for none.
        img_size: (H, W) or one edge; a multiple of all ratios together (16, or 32 with four stages).
        embed_dims: Channels of each of the pyramid's convolutions, by stage, as are all that follow.
        token_dims: Width of the tokens.
        downsample_ratios: How much each side of the grid shrinks.
        rc_tokens: Kinds of the reduction cells; see ``ReductionCell``.
        nc_tokens: Kinds of the normal cells; see ``NormalCell``.
        nc_depth: How many normal cells.
        rc_heads: Attention heads of the reduction cells.
        nc_heads: Of the normal cells.
        rc_group: Groups of the reduction cells' convolutions.
        nc_group: Of the normal cells'.
        mlp_ratio: Width of the feed-forward half of a normal cell, in tokens' widths.
        version: 1 or 2.
        class_token: Whether ``embedding`` puts a class token before the patches. The head does not read it.
        window_size: Side of the normal cells' windows.
        relative_pos: Whether windows have a bias by relative position.
        drop_path_rate: Of the last normal cell while training, rising from 0.
        compat: ``"official"`` or ``"fixed"``. Officially a reduction cell of the first version of kind
            ``transformer`` is its pyramid alone; windows of the second attend the zeros they are padded with, and
            those of reduction cells are of 7x7 whatever ``window_size``; a stage's drop-path rates begin where the
            depth of the one stage before it says, not of all. ``"fixed"`` does what was meant, and needs weights
            trained so.
        in_chans: Channels of the images.

    Raises:
        UnsupportedBackbone: Settings that do not go together.
        DataError: An image size that the stages do not divide.
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
        compat: str = "official",
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        given = (embed_dims, token_dims, downsample_ratios, rc_tokens, nc_tokens, nc_depth, rc_heads, nc_heads,
                 rc_group, nc_group)  # fmt: skip
        stages = len(token_dims)
        _check(dict(zip(_PER_STAGE, given, strict=True)), stages, version, class_token, compat)
        self.image_size = _image_size(img_size, downsample_ratios)
        self.num_classes, self.class_token = num_classes, class_token
        self.version, self.compat = version, compat
        self.prefix = int(class_token)
        official, width, grid = compat == "official", in_chans, self.image_size
        rates = _drop_paths(nc_depth, drop_path_rate, official)
        windows: dict[str, Any] = {"window": window_size, "relative_pos": relative_pos}
        self.layers = nn.ModuleList()
        for i in range(stages):
            reduction = ReductionCell(
                i, rc_tokens[i], width, embed_dims[i], token_dims[i], downsample_ratios[i], rc_heads[i], rc_group[i],
                grid, version=version, official=official, **windows,
            )  # fmt: skip
            width, grid = token_dims[i], reduction.grid
            cells = [
                NormalCell(
                    width, nc_tokens[i], nc_heads[i], nc_group[i], round(width * mlp_ratio), grid, prefix=self.prefix,
                    version=version, drop_path=rate, windows={**windows, "masked": not official},
                )
                for rate in rates[i]
            ]  # fmt: skip
            self.layers.append(Stage(reduction, cells, self.prefix))
        self.num_features = width
        self.fc_norm = nn.LayerNorm(width, eps=1e-6) if class_token else nn.Identity()
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self.apply(_start)

    def set_drop_path(self, highest: float) -> None:
        """Another ``drop_path_rate``."""
        stages: list[Any] = list(self.layers)
        rates = _drop_paths([len(stage.NC) for stage in stages], highest, self.compat == "official")
        for stage, own in zip(stages, rates, strict=True):
            for cell, rate in zip(stage.NC, own, strict=True):
                cell.drop_path = timm.layers.DropPath(rate) if rate else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> the last stage's tokens (B, N, D), not normed."""
        for stage in self.layers:
            x = stage(x)
        return x

    def forward_features_levels(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what leaves each stage, on its grid: (B, C, h, w), without a class token."""
        levels = []
        stages: list[Any] = list(self.layers)
        for stage in stages:
            x = stage(x)
            patches = x[:, self.prefix :].transpose(1, 2)
            levels.append(patches.reshape(-1, x.shape[2], *stage.grid))
        return levels

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, N, D) -> logits (B, K), or the mean of the patches (B, D) that the last linear layer reads."""
        x = self.fc_norm(x[:, self.prefix :].mean(dim=1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        return self.forward_head(self.forward_features(x))


def _check(by_stage: Mapping[str, Sequence[Any]], stages: int, version: int, class_token: bool, compat: str) -> None:
    uneven = [name for name, values in by_stage.items() if len(values) != stages]
    if uneven or not 0 < stages <= len(DILATIONS):
        raise UnsupportedBackbone(
            f"a ViTAE has 1 to {len(DILATIONS)} stages and one value for each in every list, but token_dims has "
            f"{stages}, and {', '.join(uneven) or 'no list'} another number"
        )
    if version not in (1, 2) or compat not in ("official", "fixed"):
        raise UnsupportedBackbone(
            f"a ViTAE is of version 1 or 2, and official or fixed, got version {version!r} and {compat!r}"
        )
    kinds = by_stage["rc_tokens"]
    others = any(kind != "none" for kind in kinds[1:])
    if class_token != (kinds[0] == "embedding") or (class_token and others) or kinds[0] == "none":
        raise UnsupportedBackbone(
            "a class token comes with reduction cells embedding, none, none, and with no others, got "
            f"{', '.join(kinds)} {'with' if class_token else 'without'} one"
        )


def _image_size(given: int | Sequence[int], ratios: Sequence[int]) -> Grid:
    height, width = (given, given) if isinstance(given, int) else given
    whole = math.prod(ratios)
    if min(height, width) < whole or height % whole or width % whole:
        below = max(whole, height // whole * whole)
        raise DataError(
            f"the stages of this ViTAE shrink an image {whole}-fold, so its edges must be multiples of that, but "
            f"{height}x{width} was asked for; take {below}x{below} or {below + whole}x{below + whole}"
        )
    return int(height), int(width)


def _drop_paths(depths: Sequence[int], highest: float, official: bool) -> list[list[float]]:
    """The rate of each cell of each stage."""
    rates = torch.linspace(0, highest, sum(depths), device="cpu").tolist()
    starts = [0, *(depths[:-1] if official else accumulate(depths[:-1]))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths, strict=True)]


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        timm.layers.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: Vitae) -> dict[str, Tensor]:
    """Fit the position table of another image size, as timm does for a ViT."""
    name = "layers.0.RC.pos_embed"
    own = model.state_dict().get(name)
    found = dict(state)
    if own is not None and name in found and found[name].shape[1] != own.shape[1]:
        grid = model.layers[0].grid
        found[name] = timm.layers.resample_abs_pos_embed(found[name], new_size=list(grid), num_prefix_tokens=1)  # type: ignore[arg-type]
    return found


_EVALUATION = {
    "input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}  # fmt: skip

register(__name__, Vitae, VARIANTS, _EVALUATION)

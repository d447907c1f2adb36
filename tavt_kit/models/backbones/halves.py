"""The two half-blocks of each timm block class, made of the block's own children.

A half is one line of the block's forward, so LayerScale, qk-norm, RoPE, DropPath and fused attention stay as timm
has them. Block classes are matched exactly: a subclass may have another forward, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.timm_import import timm

Extra = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Halves:
    """How a block class splits into two residual steps on x (B, n, D), between which tokens leave if it is ``joint``.

    For the thin attention, where there is one: the norm that it reads through, and the residual of its output.
    """

    attend: Callable[[Any, Tensor, Extra], Tensor]
    feed: Callable[[Any, Tensor], Tensor]
    joint: bool = True
    norm_attend: Callable[[Any, Tensor], Tensor] | None = None
    add_attend: Callable[[Any, Tensor, Tensor], Tensor] | None = None


def find_halves(block: nn.Module) -> Halves:
    """The halves of a timm block; raises UnsupportedBackbone where its class is not in the table."""
    halves = _table().get(type(block))
    if halves is None:
        raise UnsupportedBackbone(
            f"blocks of class {type(block).__name__} are not known to this toolkit, so their tokens cannot be dropped "
            "safely; use a timm VisionTransformer, DeiT, BEiT, EVA/DINOv3 or relative-position ViT"
        )
    return halves


def _add_scaled(block: Any, x: Tensor, y: Tensor) -> Tensor:
    y = block.drop_path1(block.ls1(y))
    return x + y


_SCALED = Halves(
    attend=lambda b, x, extra: _add_scaled(b, x, b.attn(b.norm1(x), **extra)),
    feed=lambda b, x: x + b.drop_path2(b.ls2(b.mlp(b.norm2(x)))),
    norm_attend=lambda b, x: b.norm1(x),
    add_attend=_add_scaled,
)
_POST_NORM = Halves(
    attend=lambda b, x, extra: x + b.drop_path1(b.norm1(b.attn(x, **extra))),
    feed=lambda b, x: x + b.drop_path2(b.norm2(b.mlp(x))),
    norm_attend=lambda b, x: x,
    add_attend=lambda b, x, y: x + b.drop_path1(b.norm1(y)),
)


def _attend_gamma(block: Any, x: Tensor, extra: Extra) -> Tensor:
    y: Tensor = block.attn(block.norm1(x), **extra)
    y = block.drop_path1(y if block.gamma_1 is None else block.gamma_1 * y)
    return x + y


def _feed_gamma(block: Any, x: Tensor) -> Tensor:
    y: Tensor = block.mlp(block.norm2(x))
    y = block.drop_path2(y if block.gamma_2 is None else block.gamma_2 * y)
    return x + y


def _attend_parallel(block: Any, x: Tensor, extra: Extra) -> Tensor:
    return x + torch.stack([attn(x) for attn in block.attns]).sum(dim=0)


def _feed_parallel(block: Any, x: Tensor) -> Tensor:
    return x + torch.stack([ffn(x) for ffn in block.ffns]).sum(dim=0)


@cache
def _table() -> dict[type[nn.Module], Halves]:
    vit = timm.models.vision_transformer
    eva, beit, relpos = timm.models.eva, timm.models.beit, timm.models.vision_transformer_relpos
    gamma = Halves(_attend_gamma, _feed_gamma)
    whole = Halves(attend=lambda b, x, extra: b(x), feed=lambda b, x: x, joint=False)
    return {
        vit.Block: _SCALED,
        vit.ResPostBlock: _POST_NORM,
        vit.ParallelThingsBlock: Halves(_attend_parallel, _feed_parallel),
        vit.ParallelScalingBlock: whole,
        vit.DiffParallelScalingBlock: whole,
        eva.EvaBlock: gamma,
        eva.EvaBlockPostNorm: _POST_NORM,
        beit.Block: gamma,
        relpos.RelPosBlock: _SCALED,
        relpos.ResPostRelPosBlock: _POST_NORM,
    }

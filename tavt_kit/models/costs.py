"""What the parts of a timm ViT cost in multiply-adds, read off its modules: the coefficients of ``models/flops.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tavt_kit.models.timm_import import timm


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Multiply-adds of one layer, per row unless said.

    Args:
        output: Output projection, and the gate where there is one.
        pair: Per pair of a query and a key: the product with the keys and the one with the values.
        pair_score: Per pair: the product with the keys alone, which a class-token score repeats.
        constant: Once per forward, whatever the tokens (a relative-position MLP).
        width: Elements of a token, for the rule that counts norms.
        select: Scoring tokens for a later fusion, per entering row.
        taps: Tokens of the output that a later fusion takes, at most.
        fuses: Where above 0, the layer receives so many rows and all that was tapped, not the tokens before it.
    """

    query: int
    key_value: int
    output: int
    pair: int
    pair_score: int
    feed: int
    constant: int
    width: int
    select: int = 0
    taps: int = 0
    fuses: int = 0

    @property
    def rows(self) -> int:
        """All linear work of the attention half, per row."""
        return self.query + self.key_value + self.output


@dataclass(frozen=True, slots=True)
class HeadCosts:
    """Multiply-adds after the last layer: fixed ones, and those per pooled token and per pair of pooled tokens."""

    fixed: int
    per_token: int = 0
    per_pair: int = 0
    skipped_rows: int = 0
    """Leading tokens that an attention pool leaves out."""


def _linear(module: nn.Module) -> int:
    """Multiply-adds per row of all linear layers below ``module``."""
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))


def layer_costs(block: Any, joint: bool) -> LayerCosts:
    """The costs of a timm block; without a joint all of its linear work runs on every row."""
    attentions = [m for m in block.modules() if hasattr(m, "fused_attn")]
    bias_modules = [a.rel_pos for a in attentions if getattr(a, "rel_pos", None) is not None]
    bias_rows = sum(_linear(module) for module in bias_modules)
    constant = sum(_relative_macs(module) for module in bias_modules)
    everything = _linear(block) - bias_rows
    pair = sum(_heads_times(a, scored_only=False) for a in attentions)
    score = sum(_heads_times(a, scored_only=True) for a in attentions)
    width = next(m for m in block.modules() if isinstance(m, nn.Linear)).in_features
    if not joint:
        return LayerCosts(everything, 0, 0, pair, score, 0, constant, width)
    query = key_value = 0
    for attention in attentions:
        if attention.qkv is not None:
            packed = _linear(attention.qkv)
            query, key_value = query + packed // 3, key_value + packed - packed // 3
        else:
            query += _linear(attention.q_proj)
            key_value += _linear(attention.k_proj) + _linear(attention.v_proj)
    attending = sum(_linear(a) for a in attentions) - bias_rows
    rest = attending - query - key_value
    return LayerCosts(query, key_value, rest, pair, score, everything - attending, constant, width)


def _heads_times(attention: Any, *, scored_only: bool) -> int:
    """Multiply-adds per (query, key) pair over heads and calls."""
    head = getattr(attention, "head_dim", None) or round(attention.scale**-2)
    # Differential attention makes two calls whose values are twice as wide as their queries.
    calls, value = (2, 2 * head) if hasattr(attention, "lambda_init") else (1, head)
    return int(calls * attention.num_heads * (head if scored_only else head + value))


def _relative_macs(module: Any) -> int:
    """A relative-position MLP runs once over its table of coordinates; a plain table costs nothing."""
    if not hasattr(module, "rel_coords_log"):
        return 0
    return _linear(module) * int(module.rel_coords_log.numel() // 2)


def stem_macs(model: Any) -> int:
    """Patch embedding and shared position terms of a timm ViT."""
    embed = model.patch_embed
    counted = part_macs(embed, embed, (model.in_chans, *embed.img_size))
    shared = getattr(model, "shared_rel_pos", None)
    return counted + (0 if shared is None else _relative_macs(shared))


def count_pass(module: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one pass over ``images`` (B, ...), all B together: convolutions, matrix products, attention."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:  # torch's counter stumbles over a view of one
            parameter.requires_grad_(False)
        return _counted(module, images)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _counted(run: Callable[[Tensor], Any], images: Tensor) -> int:
    """By torch's own counter; attention as the products it consists of, for a CPU's fused kernel counts nothing."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        run(images)
    return int(counter.get_total_flops()) // 2


class _Step(nn.Module):
    """One part of a model as a module, so that it can be run with other tensors than its own."""

    def __init__(self, model: nn.Module, step: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model
        self.step: Callable[[Tensor], Any]
        self.__dict__["step"] = step  # a module of the model is none of this one

    def forward(self, x: Tensor) -> Any:
        return self.step(x)


def part_macs(model: nn.Module, step: Callable[[Tensor], Any], shape: tuple[int, ...]) -> int:
    """Multiply-adds of a part that no schedule changes, for one input of ``shape``, without computing anything."""
    part = _Step(model, step)
    shared = {name: t.detach().to("meta") for name, t in chain(part.named_parameters(), part.named_buffers())}
    blank = torch.empty(2, *shape, device="meta", dtype=next(model.parameters()).dtype)  # batch norm may need two
    return _counted(partial(functional_call, part, shared), blank) // 2


def head_costs(model: Any) -> HeadCosts:
    """The pooling's and the classifier's costs."""
    fixed = _linear(model.head) + (_linear(model.head_dist) if hasattr(model, "head_dist") else 0)
    pool = getattr(model, "attn_pool", None)
    if pool is None:
        return HeadCosts(fixed)
    if isinstance(pool, timm.layers.AttentionPoolLatent):
        rows = pool.latent_len
        per_token = _linear(pool.kv) + rows * pool.num_heads * 2 * pool.head_dim
        fixed += rows * (_linear(pool) - _linear(pool.kv))
        skipped = 0 if getattr(model, "pool_include_prefix", True) else model.num_prefix_tokens
        return HeadCosts(fixed, per_token=per_token, skipped_rows=skipped)
    return HeadCosts(fixed, per_pair=pool.num_heads * 2 * pool.head_dim)

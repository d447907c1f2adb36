"""Attention that does no work for rows that do not go on (the lean path of plain ViT attention).

Exact up to the last bits: the same projections on fewer rows. For ``cls`` the class row is scored first and only
kept rows are queried (equal to EViT, 5-11 % of a layer); for ``column`` every row must be queried, but only kept
rows are projected; for the last layer of a token-pooled head only the head's own rows are queried.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import (
    SCORES,
    Pick,
    attend_and_score,
    attention_map,
    column_score,
    gather_rows,
    is_traced,
    keeps_no_map,
    tells_sums,
)


def is_thin(attention: nn.Module | None) -> bool:
    """Whether ``thin_attention`` knows this attention: timm's plain class, and no subclass of it."""
    return type(attention) is timm.layers.Attention


def thin_attention(attention: Any, x: Tensor, pick: Pick, bias: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Attend from the picked rows of ``x`` (B, n, D), already normed, to all rows.

    A bias (B, 1, 1, n) of each key is for a pick without a score; where it has one, nothing was merged before.

    Returns:
        The attention output (B, k, D) and the picked rows (B, k), or None where they are the first k.
    """
    if pick.score is None:
        rows = x[:, : pick.count]
        mixed = _fused(attention, _query(attention, rows), *_keys_values(attention, x), bias)
        return _finish(attention, mixed, rows), None
    score = SCORES[pick.score]
    if score.rows:
        k, v = _keys_values(attention, x)
        with torch.no_grad():
            index = pick.index(score.of(_query(attention, x[:, :1]), k, None, None))
        rows = gather_rows(x, index)
        return _finish(attention, _fused(attention, _query(attention, rows), k, v), rows), index
    q, k, v = _project(attention, x, 0, 3)
    q, k = attention.q_norm(q), attention.k_norm(k)
    if pick.score != "column" or keeps_no_map(q, k, v, None):  # only rows that go on are attended from
        index = pick.index(score.of(q, k, None, None))
        mixed = _fused(attention, gather_rows(q.transpose(1, 2), index).transpose(1, 2), k, v)  # (B, H, k, d)
        return _finish(attention, mixed, x if attention.gate is None else gather_rows(x, index)), index
    if is_traced() and not tells_sums(q, k, v, None):  # a graph chooses first, as exported files always did
        weights = attention_map(q, k, None, None)
        index = pick.index(column_score(weights))
        mixed = weights.to(v.dtype) @ v  # (B, H, n, d)
    else:
        mixed, scores = attend_and_score(q, k, v, None, None, attention.attn_drop.p if attention.training else 0.0)
        index = pick.index(scores)
    mixed = gather_rows(mixed.transpose(1, 2), index).transpose(1, 2)
    return _finish(attention, mixed, x if attention.gate is None else gather_rows(x, index)), index


def _project(attention: Any, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Parts ``first`` to ``last`` of (q, k, v), each (B, H, n, d), from that slice of the packed projection."""
    size = attention.attn_dim
    bias = attention.qkv.bias
    packed = F.linear(
        x, attention.qkv.weight[first * size : last * size], None if bias is None else bias[first * size : last * size]
    )
    parts = packed.reshape(*x.shape[:2], last - first, attention.num_heads, attention.head_dim)
    return tuple(parts.permute(2, 0, 3, 1, 4).unbind(0))


def _query(attention: Any, x: Tensor) -> Tensor:
    return attention.q_norm(_project(attention, x, 0, 1)[0])  # type: ignore[no-any-return]


def _keys_values(attention: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    k, v = _project(attention, x, 1, 3)
    return attention.k_norm(k), v


def _fused(attention: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    dropout = attention.attn_drop.p if attention.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def _finish(attention: Any, mixed: Tensor, rows: Tensor) -> Tensor:
    """(B, H, k, d) -> (B, k, D), as the attention's own forward ends."""
    out = attention.norm(mixed.transpose(1, 2).reshape(mixed.shape[0], -1, attention.attn_dim))
    if attention.gate is not None:
        out = out * attention.gate(rows).sigmoid()
    return attention.proj_drop(attention.proj(out))  # type: ignore[no-any-return]

"""How much each token matters, read from the attention of the layer that drops.

Pure functions of one attention call's q, k (B, H, n, d), its bias (broadcastable to (B, H, n, n)) and its scale.
``column`` is TAVT's significance (DATE 2023; Length-Adaptive Transformer, ACL 2021, eq. 1): the attention a token
receives, summed over heads and queries. ``cls`` is what the class token (row 0) looks at (EViT, ICLR 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SCORES", "attention_map", "cls_score", "column_score", "column_score_alone",
           "keeps_no_map", "learns", "maws_score"]  # fmt: skip

SCORES = ("column", "cls")

_FEW_TOKENS = 256
_NUMBERS_AT_ONCE = 2**23
"""Of a map that is only to be summed: 32 MB in float32."""


def attention_map(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """The softmaxed attention (B, H, m, n), at least in float32 so that half precision makes no false ties.

    Args:
        q: (B, H, m, d).
        k: (B, H, n, d).
        bias: Added before the softmax, or a bool mask whose False entries are not attended; ``None`` for none.
        scale: ``None`` means ``d ** -0.5``.
    """
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        if bias.dtype == torch.bool:
            logits = logits.masked_fill(~bias, float("-inf"))
        else:
            logits = logits + bias
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits.softmax(dim=-1)


def column_score(attention: Tensor) -> Tensor:
    """(B, H, m, n) -> (B, n): attention received, summed over queries and heads (in [0, H * m])."""
    # Two single-axis sums: summing both axes at once costs 41 % of the layer in onnxruntime, this 5 %.
    return attention.sum(dim=2).sum(dim=1)


def learns(q: Tensor) -> bool:
    """Whether a gradient will flow through queries: in training, not where a graph is traced to be exported."""
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    traced = tracing or torch.compiler.is_compiling()
    return torch.is_grad_enabled() and q.requires_grad and not traced


def keeps_no_map(q: Tensor) -> bool:
    """Whether to train without the attention map (B, H, n, n): it would be large, and the fused kernel is no slower.

    At 197 tokens the plain products are a fifth faster on a CPU, and the map is a sixth of what a layer keeps.
    """
    return learns(q) and (q.is_cuda or q.shape[2] > _FEW_TOKENS)


@torch.no_grad()
def column_score_alone(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """(B, n): ``column_score``, no map of the whole batch being made; without a gradient, as what is chosen has none.

    Training attends by a fused kernel, which keeps no map for the backward pass, and scores by this.
    """
    batch, heads, rows = q.shape[:3]
    size = max(1, _NUMBERS_AT_ONCE // (heads * rows * k.shape[2]))
    own = bias is not None and bias.dim() == 4 and bias.shape[0] == batch
    parts = [slice(start, start + size) for start in range(0, batch, size)]
    return torch.cat([column_score(attention_map(q[p], k[p], bias[p] if own and bias is not None else bias, scale))
                      for p in parts])  # fmt: skip


def cls_score(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """(B, n): attention of row 0, summed over heads; needs no full map. ``q`` may hold row 0 alone."""
    if bias is not None and bias.shape[-2] != 1:
        bias = bias[..., :1, :]
    return attention_map(q[:, :, :1], k, bias, scale)[:, :, 0].sum(dim=1)


def maws_score(q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    """(B, n): mutual attention weights (FFVT, BMVC 2021, eq. 5-7) of each token with the class token (row 0).

    How much the class token looks at the token, times how much the token adds to those that look at the class token:
    the softmax over *queries* of the class token's column. Both are means over heads. One row and one column of the
    scores are enough, so the attention itself may stay fused.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    row = (q[:, :, :1] * scale) @ k.transpose(-2, -1)  # (B, H, 1, n)
    column = (q * scale) @ k[:, :, :1].transpose(-2, -1)  # (B, H, n, 1)
    if row.dtype in (torch.float16, torch.bfloat16):
        row, column = row.float(), column.float()
    looked_at = row.softmax(dim=-1)[:, :, 0].mean(dim=1)
    contributed = column.softmax(dim=-2)[..., 0].mean(dim=1)
    return looked_at * contributed

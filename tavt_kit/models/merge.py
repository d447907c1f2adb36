"""Merging tokens: one leaves if a more important one resembles it, and goes into the most similar that stays.

Of n tokens m stay. Each patch has an importance a_i (the score of the layer's attention) and a direction u_i, its
value divided by its length. With S = u u^T over the patches:

    near_i = max { S_ij : (a_j, -j) > (a_i, -i) }, -1 where there is none
    cost_i = a_i (1 - near_i)                   the first-order error of merging i away
    keep   = the prefix and the m - prefix patches of the largest cost, in ascending position
    own(i) = i where i is kept, else the kept j of the largest S_ij
    y'_j   = sum over own(i) = j of s_i y_i, divided by s'_j, the sum of s_i

s are the sizes: how many patches of the image a token stands for. In every later attention log s_j is added to the
logits of key j, so that a merged token is attended to as its patches would be (Bolya et al., ICLR 2023, eq. 1).
Of equals the lowest index goes first, everywhere. There is no scatter: every step is a matrix product, a comparison or
a gather of rows, which each runtime has.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from tavt_kit.models.drop import Pick, gather_rows, keep_best
from tavt_kit.models.tokens import TokenState

__all__ = ["choose", "merge", "merge_cost", "similarity"]

_SHORTEST = 1e-6
"""Length below which a token counts as that long: one of zeros resembles nothing."""


def merge(state: TokenState, scores: Tensor, pick: Pick) -> TokenState:
    """Reduce a state to ``pick.count`` tokens; the values of those that leave go into those that stay.

    The choice has no gradient, the means have one. Similarities, costs, sizes and means are in float32 whatever the
    tokens are in: in half precision ``1 - near`` collapses to ties, and sizes above 256 are not exact.

    Args:
        state: Tokens (B, n, D) after an attention half-block.
        scores: (B, n), the importance of each token; that of prefix tokens is not read.
        pick: How many tokens stay, how many of them are no patches, and how the best are selected.

    Returns:
        The tokens (B, m, D) that stay, at their own places, with ``sizes``; with ``owner`` where the given state
        has it.
    """
    prefix = state.prefix
    with _in_float32(state.tokens):
        patches = state.tokens[:, prefix:].float()
        given = torch.ones_like(scores, dtype=torch.float32) if state.sizes is None else state.sizes
        with torch.no_grad():
            kept, own = choose(similarity(patches), scores[:, prefix:].float(), pick)
            rows = torch.arange(kept.shape[1], device=own.device)
            share = (own.unsqueeze(1) == rows.unsqueeze(1)) * given[:, prefix:].unsqueeze(1)  # (B, m - p, n - p)
            total = share.sum(dim=2)
        means = (share @ patches) / total.unsqueeze(2)
        tokens = torch.cat([state.tokens[:, :prefix], means.to(state.tokens.dtype)], dim=1)
    first = torch.arange(prefix, device=own.device).expand(own.shape[0], -1)
    index = torch.cat([first, kept + prefix], dim=1)
    owner = state.owner
    return replace(
        state,
        tokens=tokens,
        place=index if state.place is None else gather_rows(state.place, index),
        along={name: gather_rows(values, index) for name, values in state.along.items()},
        sizes=torch.cat([given[:, :prefix], total], dim=1),
        owner=None if owner is None else gather_rows(torch.cat([first, own + prefix], dim=1), owner),
    )


def similarity(patches: Tensor) -> Tensor:
    """(B, n, D) -> (B, n, n): the cosine of the angle between any two tokens of an image."""
    length = torch.linalg.vector_norm(patches, dim=2, keepdim=True).clamp(min=_SHORTEST)
    directions = patches / length
    alike: Tensor = directions @ directions.transpose(1, 2)
    return alike


def choose(alike: Tensor, importance: Tensor, pick: Pick) -> tuple[Tensor, Tensor]:
    """Which patches stay, and into which of them each one goes.

    Args:
        alike: (B, n, n) similarities of the patches.
        importance: (B, n).
        pick: Its count holds the prefix, which is not among the patches.

    Returns:
        The rows that stay (B, m), ascending, and for each patch the index (B, n) of its owner among those.

    Example:
        >>> alike = torch.tensor([[[1.0, 0.9, 0.0], [0.9, 1.0, 0.1], [0.0, 0.1, 1.0]]])
        >>> choose(alike, torch.tensor([[3.0, 2.0, 1.0]]), Pick(2, 0, "cls"))
        (tensor([[0, 2]]), tensor([[0, 0, 1]]))
    """
    rows = torch.arange(alike.shape[1], device=alike.device)
    kept = keep_best(merge_cost(alike, importance), pick.count - pick.prefix, 0, pick.selection)
    # No similarity is above 1, so a patch that stays owns itself whatever resembles it.
    to_kept = torch.where(kept.unsqueeze(2) == rows, alike.new_tensor(2.0), gather_rows(alike, kept))  # (B, m, n)
    return kept, to_kept.argmax(dim=1)


def merge_cost(alike: Tensor, importance: Tensor) -> Tensor:
    """(B, n): what the output loses, to first order, where a patch goes into the nearest that is more important.

    Args:
        alike: (B, n, n) similarities of the patches.
        importance: (B, n), at least 0.
    """
    rows = torch.arange(alike.shape[1], device=alike.device)
    a_i, a_j = importance.unsqueeze(2), importance.unsqueeze(1)
    leads = (a_j > a_i) | ((a_j == a_i) & (rows < rows.unsqueeze(1)))  # (B, i, j): j is more important than i
    near = torch.where(leads, alike, alike.new_tensor(-1.0)).amax(dim=2)
    return importance * (1 - near)


def _in_float32(tokens: Tensor) -> AbstractContextManager[object]:
    device = tokens.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()

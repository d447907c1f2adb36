"""Attention rollout (Abnar and Zuidema, ACL 2020), for token counts that fall from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["attention_rollout"]


def attention_rollout(maps: Sequence[tuple[Tensor, Tensor]], left: Tensor, weights: Tensor, tokens: int) -> Tensor:
    """How much of every original token is in what the head reads, of one picture.

    Each layer passes on half of what attention mixed and half of the token itself: A = (map + 1) / 2 (equation 1 of the
    paper). A token that was dropped in a layer has passed on nothing from there.

    Args:
        maps: For each layer its attention (n, n), rows summing to 1, and the places (n,) of the tokens that entered it.
        left: Places (k,) of the tokens that left the last layer.
        weights: (k,) what the head makes of them: 1 at the class token, or equal shares of the patches.
        tokens: N, of the whole sequence.

    Returns:
        (N,), summing to what the weights sum to.

    Example:
        >>> import torch
        >>> places = torch.arange(2)
        >>> attention_rollout([(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), places)], places, torch.tensor([1.0, 0.0]), 2)
        tensor([0.5000, 0.5000])
    """
    share = _spread(weights, left, tokens)
    for attention, entered in reversed(maps):
        row = share[entered]
        share = _spread((row @ attention.to(row.dtype) + row) / 2, entered, tokens)
    return share


def _spread(values: Tensor, places: Tensor, tokens: int) -> Tensor:
    return values.new_zeros(tokens).index_copy(0, places, values)

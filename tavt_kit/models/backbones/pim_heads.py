"""The five heads of FGVC-PIM beside each other: the mean token of each level, and the combiner.

Its evaluation also reports "highest-k", the sum of the probabilities of k of the five. The official code sorts them by
confidence ascending, so that it adds the k least confident ones; only the sum of all five does not depend on that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from tavt_kit.errors import UnknownName
from tavt_kit.models.token_reduction import gather_rows

Compat = Literal["fixed", "official"]
COMPATS: tuple[Compat, ...] = ("fixed", "official")


def head_scores(outputs: Mapping[str, Tensor]) -> Tensor:
    """The output dictionary of ``Pim.forward_outputs`` -> probabilities (B, heads, K): levels first, then combiner."""
    levels = [value.mean(1) for name, value in outputs.items() if name.startswith("layer")]
    return torch.stack([*levels, *(outputs[name] for name in ("comb_outs",) if name in outputs)], dim=1).softmax(2)


def head_order(scores: Tensor, compat: Compat = "fixed") -> Tensor:
    """Heads (B, heads) by their largest probability: the surest first, or last as in the official code.

    Args:
        scores: (B, heads, K) probabilities.
        compat: ``"fixed"`` or ``"official"``.

    Raises:
        UnknownName: Another ``compat``.
    """
    if compat not in COMPATS:
        raise UnknownName(f"compat must be one of {', '.join(COMPATS)}, got {compat!r}")
    return scores.amax(dim=2).argsort(dim=1, descending=compat == "fixed", stable=True)


def fuse_heads(scores: Tensor, count: int, compat: Compat = "fixed") -> Tensor:
    """ "highest-k": (B, heads, K) probabilities -> (B, K), the sum of ``count`` of them in ``head_order``.

    Raises:
        UnknownName: Another ``compat``.
    """
    return gather_rows(scores, head_order(scores, compat)[:, :count]).sum(1)


def mean_of_heads(logits: Sequence[Tensor]) -> Tensor:
    """Logits (B, K) of each head -> the logarithm (B, K) of their mean probability."""
    return torch.stack([each.log_softmax(1) for each in logits]).logsumexp(0) - math.log(len(logits))

"""FGVC-PIM's training loss (Chou et al., arXiv 2202.03822, section 3.5), over what ``Pim.forward_outputs`` gives.

What was selected is to be classified, what was left out is to look like background: all its logits towards minus
infinity, by a squared distance of their tanh to -1. The paper's weights are the official configuration's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["PimWeights", "pim_loss", "pim_terms"]


_KINDS = {"layer": "level", "select_": "selected", "drop_": "dropped", "comb_": "combined"}


@dataclass(frozen=True, slots=True)
class PimWeights:
    """The four lambdas.

    Args:
        level: Of the classes of each level's mean logits (lambda_b).
        selected: Of the classes of each selected token (lambda_s).
        dropped: Of the tokens left out (lambda_n).
        combined: Of the combiner's classes (lambda_c).
    """

    level: float = 0.5
    selected: float = 0.0
    dropped: float = 5.0
    combined: float = 1.0

    def of(self, name: str) -> float:
        """The weight of an output by its name."""
        return float(getattr(self, self.kind(name)))

    @staticmethod
    def kind(name: str) -> str:
        """Which of the four weights an output's name stands for."""
        return next(kind for start, kind in _KINDS.items() if name.startswith(start))


def pim_terms(outputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Every term, before its weight, by the name of its output.

    Args:
        outputs: ``layer*``, ``select_*``, ``drop_*`` (B, n, K) and ``comb_outs`` (B, K); any may be absent.
        labels: (B,) int64.

    Returns:
        Scalars: cross-entropies averaged over images (or over all selected tokens), and for ``drop_*`` the mean of
        (tanh(logit) + 1)^2. A level that selects all its tokens has no ``drop_*`` term.
    """
    return {name: _term(name, value, labels) for name, value in outputs.items() if value.numel()}


def _term(name: str, value: Tensor, labels: Tensor) -> Tensor:
    if name.startswith("layer"):
        return F.cross_entropy(value.mean(1), labels)
    if name.startswith("select_"):
        return F.cross_entropy(value.flatten(0, 1), labels.repeat_interleave(value.shape[1]))
    if name.startswith("drop_"):
        return (value.tanh() + 1).square().mean()
    return F.cross_entropy(value, labels)


def pim_loss(outputs: Mapping[str, Tensor], labels: Tensor, weights: PimWeights | None = None) -> Tensor:
    """The weighted sum of ``pim_terms``, a scalar; terms of weight 0 are not computed.

    Args:
        outputs: As ``pim_terms``.
        labels: (B,) int64.
        weights: The official ones by default.
    """
    used = weights or PimWeights()
    terms = pim_terms({name: value for name, value in outputs.items() if used.of(name)}, labels)
    return torch.stack([used.of(name) * term for name, term in terms.items()]).sum()

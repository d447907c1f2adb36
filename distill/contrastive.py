"""TransFG's contrastive loss on class-token features (He et al., AAAI 2022, eq. 9); TAVT's code keeps it, unused."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrastive_loss"]


def contrastive_loss(features: Tensor, labels: Tensor, margin: float = 0.4) -> Tensor:
    """Pull features of one class together, push others below ``margin`` in cosine.

    Args:
        features: (B, D).
        labels: (B,) int64.
        margin: Cosine above which two classes are pushed apart.

    Returns:
        Scalar: (sum over same-class pairs of 1 - cos + sum over other pairs of max(cos - margin, 0)) / B^2.
    """
    unit = F.normalize(features)
    cosine = unit @ unit.T
    same = (labels[:, None] == labels[None, :]).to(cosine.dtype)
    pulled = (same * (1 - cosine)).sum()
    pushed = ((1 - same) * (cosine - margin).clamp(min=0)).sum()
    return (pulled + pushed) / len(features) ** 2

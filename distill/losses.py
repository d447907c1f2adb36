"""Kullback-Leibler divergences between a sub-network and the full network it is part of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.errors import UnknownName

__all__ = ["DIRECTIONS", "at_least_f32", "check_direction", "divergence"]

DIRECTIONS = ("reverse", "forward")


def at_least_f32(logits: Tensor) -> Tensor:
    """Logits of 16 bits as float32, others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_direction(direction: str) -> None:
    """Raise UnknownName unless it is a direction."""
    if direction not in DIRECTIONS:
        raise UnknownName(f"the KL direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")


def divergence(student: Tensor, teacher: Tensor, direction: str = "reverse", temperature: float = 1.0) -> Tensor:
    """How far the student's class probabilities are from the teacher's, in nats, averaged over the batch.

    ``reverse`` is KL(student || teacher), what TAVT's official code computes (its call passes the student as the
    *target* of ``KLDivLoss``): it lets the student ignore what the teacher finds unlikely. ``forward`` is
    KL(teacher || student) of Hinton et al. (2015). At another temperature the value is multiplied by its square, which
    keeps gradients comparable.

    Args:
        student: Logits (B, C); gradients flow through them alone.
        teacher: Logits (B, C); detached here.
        direction: See above.
        temperature: Divides both logits; above 0.

    Example:
        >>> import torch
        >>> float(divergence(torch.zeros(1, 2), torch.zeros(1, 2)))
        0.0
    """
    check_direction(direction)
    ours = F.log_softmax(at_least_f32(student) / temperature, dim=-1)
    theirs = F.log_softmax(at_least_f32(teacher.detach()) / temperature, dim=-1)
    p, q = (ours, theirs) if direction == "reverse" else (theirs, ours)
    # F.kl_div(input=log q, target=log p) = sum p (log p - log q): its arguments are the other way round.
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2

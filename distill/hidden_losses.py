"""What a sub-network may learn from inside the full one: its tokens and its attention maps, where it kept them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.distill.losses import at_least_f32
from tavt_kit.errors import UnsupportedBackbone
from tavt_kit.models.prefix_sharing import Placed
from tavt_kit.models.token_reduction import gather_rows


def feature_loss(student: Placed, teacher: Placed) -> Tensor:
    """Squared distance of normalised tokens, averaged over the tokens that the student kept, and over D and the batch.

    ``mean((norm(s) - norm(t)) ** 2)`` where ``norm`` is a layer norm without weights: the hidden-state loss of TinyBERT
    (Jiao et al., Findings of EMNLP 2020, eq. 8) with the identity for its projection, as both networks have the same
    weights. Normalised, because a ViT's tokens have a few channels that would be all of an unnormalised distance.
    A merged token is compared with the mean of the teacher's tokens that went into it.

    Args:
        student: Tokens (B, n, D); gradients flow through them alone.
        teacher: Tokens (B, m, D), among them all that the student has; where the student merges, all N.

    Example:
        >>> import torch
        >>> tokens = torch.randn(2, 5, 8)
        >>> float(feature_loss((tokens[:, :3], torch.arange(3).expand(2, 3)), (tokens, None)))
        0.0
    """
    (tokens, place, owner), (theirs, own, _) = Placed(*student), Placed(*teacher)
    if owner is not None:
        members = _members(owner, tokens.shape[1], own)
        theirs = members.to(theirs.dtype) @ theirs / members.sum(2, keepdim=True).to(theirs.dtype)
    elif place is not None:
        theirs = gather_rows(theirs, _rows(place, own))
    width = tokens.shape[-1:]
    return F.mse_loss(F.layer_norm(at_least_f32(tokens), width), F.layer_norm(at_least_f32(theirs.detach()), width))


def attention_loss(student: Placed, teacher: Placed) -> Tensor:
    """KL(teacher || student) of attention rows, averaged over rows, heads and the batch, in nats.

    MiniLM's transfer of attention distributions (Wang et al., NeurIPS 2020, eq. 7), for a student that has fewer
    tokens: of the teacher's map the rows and columns of the tokens that entered the student's layer, each row made to
    sum to 1 again, which is the softmax of the teacher's own scores over these tokens. Of the tokens that went into a
    merged one the columns are added up, and the rows averaged.

    Args:
        student: Map (B, H, n, n); gradients flow through it alone.
        teacher: Map (B, H, m, m), among its tokens all that the student has; where the student merges, all N.
    """
    (ours, place, owner), (theirs, own, _) = Placed(*student), Placed(*teacher)
    theirs = theirs.detach()
    if owner is not None:
        members = _members(owner, ours.shape[2], own).to(theirs.dtype).unsqueeze(1)  # (B, 1, n, N)
        theirs = members @ theirs @ members.transpose(2, 3) / members.sum(3, keepdim=True)
    elif place is not None:
        rows = _rows(place, own)[:, None]  # (B, 1, n)
        theirs = theirs.gather(2, rows.unsqueeze(3).expand(-1, theirs.shape[1], -1, theirs.shape[3]))
        theirs = theirs.gather(3, rows.unsqueeze(2).expand(-1, theirs.shape[1], theirs.shape[2], -1))
        theirs = theirs / theirs.sum(-1, keepdim=True).clamp(min=_TINY)
    logs = ours.clamp(min=_TINY).log()
    return (theirs * (theirs.clamp(min=_TINY).log() - logs)).sum(-1).mean()


_TINY = 1e-12
"""Least probability whose logarithm is taken."""


def _members(owner: Tensor, count: int, own: Tensor | None) -> Tensor:
    """(B, n, N) bool: whether an original token went into a row, for ``count`` rows and owners (B, N).

    Raises:
        UnsupportedBackbone: The teacher itself lacks tokens.
    """
    if own is not None:
        raise UnsupportedBackbone(
            "where tokens merge, features and attention are learned from a network that keeps all of its tokens, but "
            "the full network's schedule reduces them; leave out `feature_weight` and `attention_weight`"
        )
    return owner.unsqueeze(1) == torch.arange(count, device=owner.device).unsqueeze(1)


def _rows(place: Tensor, own: Tensor | None) -> Tensor:
    """Where the tokens at ``place`` (B, n) are among those at ``own`` (B, m), both ascending."""
    if own is None:
        return place
    return (own.unsqueeze(1) < place.unsqueeze(2)).sum(2)

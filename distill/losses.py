"""Losses: divergences between a sub-network and the full network, outside and inside, and each family's own loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.distill.options import LOSSES
from tavt_kit.errors import TrainingError, UnknownName, UnsupportedBackbone
from tavt_kit.models.backbones.base import Outputs
from tavt_kit.models.backbones.pim_vit import PimVitBackbone
from tavt_kit.models.backbones.transfg import TransFgBackbone
from tavt_kit.models.prefix_sharing import Placed
from tavt_kit.models.token_reduction import TokenState, gather_rows
from tavt_kit.models.wrap import AdaptiveViT

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


_PIM_TERMS = {"layer": "level", "select_": "selected", "drop_": "dropped", "comb_": "combined"}
"""Beginning of an output's name -> its term in ``LOSSES``: the classes of each level's mean logits (lambda_b) and of
each selected token (lambda_s), the tokens left out (lambda_n), and the combiner's classes (lambda_c)."""


def pim_kind(name: str) -> str:
    """Which of the four terms of ``LOSSES["pim"]`` a PIM's output stands in, by its name."""
    return next(kind for start, kind in _PIM_TERMS.items() if name.startswith(start))


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


def pim_loss(outputs: Mapping[str, Tensor], labels: Tensor, weights: Mapping[str, float] = LOSSES["pim"]) -> Tensor:
    """The weighted sum of ``pim_terms``, a scalar; terms of weight 0 are not computed.

    Args:
        outputs: As ``pim_terms``.
        labels: (B,) int64.
        weights: Weight of each term; the official ones by default.
    """
    terms = pim_terms({name: value for name, value in outputs.items() if weights[pim_kind(name)]}, labels)
    return torch.stack([weights[pim_kind(name)] * term for name, term in terms.items()]).sum()


@dataclass(frozen=True, slots=True)
class FullLoss:
    """What the full network is taught from labels.

    Args:
        terms: (model, state after the last layer, its outputs, labels) -> named terms, which are added.
        pairwise: Whether images of a batch meet in it, so that a batch cannot be taken in parts.
    """

    terms: Callable[[AdaptiveViT, TokenState, Outputs, Tensor], Mapping[str, Tensor]]
    pairwise: bool = False


def full_loss_of(model: AdaptiveViT) -> FullLoss:
    """PIM's four terms with their official weights, TransFG's contrastive loss beside the cross-entropy, or that alone.

    Mix-ViT's pure model and FFVT are taught here by cross-entropy: the mixing branch of the one belongs to its
    fine-tuning and is in no run, and the other has no loss of its own.
    """
    if isinstance(model.backbone, PimVitBackbone):
        return FullLoss(_pim)
    if isinstance(model.backbone, TransFgBackbone):
        return FullLoss(_transfg, pairwise=True)
    return FullLoss(_plain)


def _plain(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> Mapping[str, Tensor]:
    return {"cross_entropy": F.cross_entropy(at_least_f32(outputs.logits), labels)}


def _transfg(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> Mapping[str, Tensor]:
    _refuse_mixed(labels, "TransFG's contrastive")
    apart = contrastive_loss(at_least_f32(model.pooled(state)), labels)
    return {**_plain(model, state, outputs, labels), "contrastive": apart}


def _pim(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> Mapping[str, Tensor]:
    _refuse_mixed(labels, "PIM's")
    if not outputs.named:  # in evaluation it gives its logits alone
        return _plain(model, state, outputs, labels)
    return {"pim": pim_loss({name: at_least_f32(value) for name, value in outputs.named.items()}, labels)}


def _refuse_mixed(labels: Tensor, whose: str) -> None:
    if labels.is_floating_point():
        raise TrainingError(f"{whose} loss reads whole labels, so images cannot be mixed; set mixup and cutmix to 0")


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

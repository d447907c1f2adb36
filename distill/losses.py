"""Losses, and the steps made of them: of a sub-network from the full one, and of that by its family's own.

Mix-ViT (Yu et al., Pattern Recognition 2023) replaces, in training, the tokens that matter most by those of another
image; one more block and a head say which were replaced. Its evaluation runs none of this.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.options import LOSSES, Objective
from tavt_kit.errors import TrainingError, UnknownName
from tavt_kit.models.backbones.base import Outputs, Watch, inside_attention
from tavt_kit.models.backbones.fusion import FusionViT, TransFgBackbone
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.backbones.pim import Pim, PimVitBackbone
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import TokenState, cls_score, gather_rows
from tavt_kit.models.wrap import AdaptiveViT

DIRECTIONS = ("reverse", "forward")

Backward = Callable[[Tensor], None]
"""Differentiates a 0-d term of the loss."""

Step = Callable[[Batch, np.random.Generator, Backward], Mapping[str, Tensor]]
"""Calls ``Backward`` with every term of the loss, each as soon as it is known, and gives named 0-d values to be logged,
``loss`` among them. The draws are the same for all micro-batches of an update."""


def at_least_f32(logits: Tensor) -> Tensor:
    """Logits of 16 bits as float32, others as they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def divergence(student: Tensor, teacher: Tensor, direction: str = "reverse", temperature: float = 1.0) -> Tensor:
    """How far the student's class probabilities are from the teacher's, in nats, averaged over the batch.

    ``reverse`` is KL(student || teacher), what TAVT's official code computes (its call passes the student as the
    *target* of ``KLDivLoss``): it lets the student ignore what the teacher finds unlikely. ``forward`` is
    KL(teacher || student) of Hinton et al. (2015). At another temperature the value is multiplied by its square, which
    keeps gradients comparable. Gradients flow through the student's logits (B, C) alone.

    Example:
        >>> import torch
        >>> float(divergence(torch.zeros(1, 2), torch.zeros(1, 2)))
        0.0
    """
    if direction not in DIRECTIONS:
        raise UnknownName(f"the KL direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    ours = F.log_softmax(at_least_f32(student) / temperature, dim=-1)
    theirs = F.log_softmax(at_least_f32(teacher.detach()) / temperature, dim=-1)
    p, q = (ours, theirs) if direction == "reverse" else (theirs, ours)
    # F.kl_div(input=log q, target=log p) = sum p (log p - log q): its arguments are the other way round.
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2


def contrastive_loss(features: Tensor, labels: Tensor, margin: float = 0.4) -> Tensor:
    """Pull features (B, D) of one class together, push others below ``margin`` in cosine.

    (sum over same-class pairs of 1 - cos + sum over other pairs of max(cos - margin, 0)) / B^2, as TransFG has it.
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
    """Every term, before its weight, by the name of its output, of which any may be absent.

    Cross-entropies averaged over images (of ``layer*`` (B, n, K), ``comb_outs`` (B, K)) or over all selected tokens
    (``select_*``), and of ``drop_*`` the mean of (tanh(logit) + 1)^2. A level that selects all its tokens has none.
    """
    terms = {}
    for name, value in outputs.items():
        kind = pim_kind(name)
        if not value.numel():
            continue
        if kind == "dropped":
            terms[name] = (value.tanh() + 1).square().mean()
        elif kind == "selected":
            terms[name] = F.cross_entropy(value.flatten(0, 1), labels.repeat_interleave(value.shape[1]))
        else:
            terms[name] = F.cross_entropy(value.mean(1) if kind == "level" else value, labels)
    return terms


def pim_loss(outputs: Mapping[str, Tensor], labels: Tensor, weights: Mapping[str, float] = LOSSES["pim"]) -> Tensor:
    """The weighted sum of ``pim_terms``, a scalar; terms of weight 0 are not computed."""
    terms = pim_terms({name: value for name, value in outputs.items() if weights[pim_kind(name)]}, labels)
    return torch.stack([weights[pim_kind(name)] * term for name, term in terms.items()]).sum()


def is_pairwise(model: AdaptiveViT) -> bool:
    """Whether images of a batch meet in ``full_terms``, so that a batch cannot be taken in parts."""
    return isinstance(model.backbone, TransFgBackbone)


def full_terms(model: AdaptiveViT, state: TokenState, outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
    """What the full network is taught from labels, by the state after its last layer: named terms, which are added.

    PIM's four terms with their official weights, TransFG's contrastive loss beside the cross-entropy, or that alone.
    Mix-ViT's pure model and FFVT are taught here by cross-entropy: the mixing branch of the one belongs to its
    fine-tuning and is in no run, and the other has no loss of its own.
    """
    own = {PimVitBackbone: "PIM's", TransFgBackbone: "TransFG's contrastive"}
    whose = next((name for kind, name in own.items() if isinstance(model.backbone, kind)), None)
    if whose is not None and labels.is_floating_point():
        raise TrainingError(f"{whose} loss reads whole labels, so images cannot be mixed; set mixup and cutmix to 0")
    if isinstance(model.backbone, PimVitBackbone) and outputs.named:  # in evaluation it gives its logits alone
        return {"pim": pim_loss({name: at_least_f32(value) for name, value in outputs.named.items()}, labels)}
    terms = {"cross_entropy": F.cross_entropy(at_least_f32(outputs.logits), labels)}
    if is_pairwise(model):
        terms["contrastive"] = contrastive_loss(at_least_f32(model.pooled(state)), labels)
    return terms


_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """What an attention map is made of: queries and keys (B, H, N, d), and the factor of their products."""

    q: Tensor
    k: Tensor
    scale: float

    def logits(self, queries: slice = slice(None), keys: slice = slice(None)) -> Tensor:
        """(B, H, queries, keys), at least in float32 so that half precision makes no false ties."""
        with torch.autocast(self.q.device.type, enabled=False):
            q, k = at_least_f32(self.q[:, :, queries]), at_least_f32(self.k[:, :, keys])
            return (q * self.scale) @ k.transpose(-2, -1)


class AttentionCalls(Watch):
    """Notes the queries and keys of each attention call, which stays fused."""

    def __init__(self) -> None:
        super().__init__("calls")
        self.calls: list[AttentionCall] = []

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None, dropout: float
    ) -> Tensor:
        self.calls.append(AttentionCall(q.detach(), k.detach(), q.shape[-1] ** -0.5 if scale is None else scale))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


@torch.no_grad()
def class_rollouts(calls: Sequence[AttentionCall]) -> tuple[Tensor, Tensor]:
    """What each patch gives to the class token over all layers, and what it takes from it (without identity, 3.2).

    The class token's row of the product of attention maps, and its column of the product of the same scores under a
    softmax over queries; means over heads. Vector by vector: the same numbers as by products of whole maps, of which
    one at a time is made again from its queries and keys, so that none is kept. Both are (B, N - 1).
    """
    row = calls[-1].logits(queries=slice(0, 1)).softmax(-1)  # (B, H, 1, N)
    for call in reversed(calls[:-1]):
        row = row @ call.logits().softmax(-1)
    column = calls[0].logits(keys=slice(0, 1)).softmax(-2)  # (B, H, N, 1)
    for call in calls[1:]:
        column = call.logits().softmax(-2) @ column
    return row[:, :, 0, 1:].mean(1), column[:, :, 1:, 0].mean(1)


def mutual_rollout(calls: Sequence[AttentionCall]) -> Tensor:
    """(B, N - 1): the product of both of ``class_rollouts``, by which the pure model's patches are ranked."""
    row, column = class_rollouts(calls)
    return row * column


def draw_partners(batch: int) -> list[int]:
    """For each image another one, by torch's random state, as the official code draws them."""
    if batch < 2:
        raise TrainingError(f"mixing needs at least two images in a batch, got {batch}; use a larger `batch`")
    partners = []
    for image in range(batch):
        other = image
        while other == image:
            other = int(torch.randint(0, batch, (1, 1)))
        partners.append(other)
    return partners


def substitute(states: Tensor, index: Tensor, partners: Sequence[int]) -> Tensor:
    """Replace each image's tokens (B, N, D) by its partner's, rank by rank, one image after another.

    A later image may so receive tokens that were mixed before, as in the official code. The index is (B, k) places,
    the most important first.
    """
    mixed = list(states.unbind(0))
    for image, partner in enumerate(partners):
        mixed[image] = mixed[image].index_copy(0, index[image], mixed[partner][index[partner]])
    return torch.stack(mixed)


class MixBranch(nn.Module):
    """One more block over mixed tokens, a head that says which places were replaced, and one of classes (hybrid)."""

    def __init__(self, width: int, heads: int, mlp_dim: int, places: int, classes: int | None = None) -> None:
        super().__init__()
        block = timm.models.vision_transformer.Block
        heads = math.gcd(width, heads)  # of a pruned model they may not divide its width
        self.block = block(width, heads, mlp_dim / width, qkv_bias=True, norm_layer=timm.layers.LayerNorm)
        self.norm = timm.layers.LayerNorm(width)
        self.mask_head = nn.Linear(width, places)
        self.mask_cls_head = None if classes is None else nn.Linear(width, classes)

    def forward(self, mixed: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> which places were replaced (B, places) as logits, and the class logits (B, K)."""
        token = self.norm(self.block(mixed))[:, 0]
        return self.mask_head(token), None if self.mask_cls_head is None else self.mask_cls_head(token)

    def mask_loss(self, logits: Tensor, index: Tensor) -> Tensor:
        """Binary cross-entropy of (B, places) logits with 1 at ``index`` (B, k), over all places."""
        return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits).scatter(1, index, 1.0))


def shaping_loss(assign: Tensor) -> Tensor:
    """How far the parts' presence over the batch is from Beta(1, 0.001), in logarithms (Huang and Li, CVPR 2020).

    The grouping unit's map (B, P, h, w) must not be smaller than the Gaussian filter that runs over it.
    """
    (batch, parts), sides = assign.shape[:2], assign.shape[2:]
    kernel = gaussian_kernel(assign).expand(parts, 1, -1, -1)
    least = len(kernel[0, 0])
    if min(sides) < least:
        raise TrainingError(
            f"parts are shaped on feature maps of at least {least} places a side, got {sides[0]}x{sides[1]}; "
            "give a larger `image_size`, or `loss_weight` shaping=0"
        )
    presence = F.conv2d(assign, kernel, groups=parts).amax(dim=(2, 3)).sort(dim=0).values  # (B, P)
    quantiles = (2 * torch.arange(batch, device=assign.device) + 1) / (2 * batch)
    prior = 1 - (1 - quantiles) ** (1 / 0.001)  # the inverse of 1 - (1 - x) ** 0.001
    return ((presence + _EPSILON).log() - (prior + _EPSILON).log()[:, None]).abs().mean()


def gaussian_kernel(like: Tensor) -> Tensor:
    """(1, 1, 5, 5) of a deviation of 0.4 places, summing to 1, of the type of ``like``."""
    offsets = torch.arange(-2, 3, dtype=like.dtype, device=like.device)
    kernel = (-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 0.4**2)).exp()
    return (kernel / kernel.sum())[None, None]


Entropy = Callable[[Tensor, Batch], Tensor]
"""Logits (B, C) and the batch -> cross-entropy."""

Terms = Callable[[Batch], Mapping[str, Tensor]]
"""The terms of a loss on a batch, before their weights, each a scalar with its graph."""

_HYBRID_OUTPUTS = 785
"""Of the official hybrid mask head: the places of its 28x28 feature map and a class token, whatever is mixed."""


def pure_mix(
    model: AdaptiveViT, objective: Objective, entropy: Entropy, *, frozen: int, seed: int
) -> tuple[Terms, MixBranch | None]:
    """Cross-entropy of a plain ViT, and which of its patches were replaced before its last block (section 3.2).

    Patches are ranked by ``mutual_rollout`` over all layers. Attention stays fused; the maps are made again one at a
    time from their queries and keys.
    """
    bare: Any = model.bare
    plain = isinstance(bare, timm.models.vision_transformer.VisionTransformer) and not isinstance(bare, FusionViT)
    if not (plain and model.prefix == 1 and model.layout.token_pooled):
        raise TrainingError(
            "the loss mixvit_pure is for a plain ViT whose head reads its class token, but the model is "
            f"{type(bare).__name__}; take another loss or model"
        )
    patches, official = model.tokens - 1, objective.compat == "official"
    count = _count_mixed(objective, patches)
    mixes = bool(objective.weights["mask"])
    # Officially the mask head has two more outputs than there are patches.
    branch = _branch(bare, model.tokens + 1 if official else patches, None, seed) if mixes else None
    backbone = model.backbone

    def terms(batch: Batch) -> Mapping[str, Tensor]:
        calls = AttentionCalls()
        with torch.set_grad_enabled(not frozen):
            state = before = model.start(batch.images)
        for layer in range(model.layers):
            with torch.set_grad_enabled(layer >= frozen):
                before = state
                state = backbone.feed(layer, backbone.attend(layer, state, calls if mixes else None))
        losses = {"cross_entropy": entropy(model.finish(state), batch)}
        if branch is not None:
            best = mutual_rollout(calls.calls).topk(count, dim=1).indices
            # Officially indices of patches are taken for places in the sequence, one place too far to the front.
            places = best if official else best + 1
            mask, _ = branch(substitute(before.tokens, places, draw_partners(len(best))))
            losses["mask"] = branch.mask_loss(at_least_f32(mask), best)
        return losses

    return terms, branch


def hybrid_mix(
    model: AdaptiveViT, objective: Objective, entropy: Entropy, *, seed: int
) -> tuple[Terms, MixBranch | None]:
    """The hybrid model's terms: classes, which tokens were replaced, classes of the mixed tokens, shape of the parts.

    Tokens are ranked by what the class token looks at in the last block, the class token being one of the candidates.
    """
    bare = model.bare
    if not isinstance(bare, MixVitHybrid):
        raise TrainingError(
            f"the loss mixvit_hybrid is for Mix-ViT's hybrid model, but the model is {type(bare).__name__}; take "
            "another loss or model"
        )
    weights, official = objective.weights, objective.compat == "official"
    mixes = bool(weights["mask"] or weights["mask_class"])
    # A share that is no whole token mixes nothing officially (AFD's 0.02); a mended run refuses it.
    count = int(objective.mix_share * bare.num_tokens) if official else _count_mixed(objective, bare.num_tokens)
    outputs = _HYBRID_OUTPUTS if official else bare.num_tokens
    branch = _branch(bare, outputs, bare.num_classes, seed) if mixes else None

    def terms(batch: Batch) -> Mapping[str, Tensor]:
        parts, assign = bare.grouping(bare.resnet(batch.images))
        before, calls = bare.embed_parts(parts), AttentionCalls()
        *blocks, last = bare.blocks
        for block in blocks:
            before = block(before)
        with inside_attention(calls if mixes else None, None):
            after = last(before)
        losses = {"cross_entropy": entropy(bare.forward_head(bare.norm(after)), batch)}
        if branch is not None:
            (call,) = calls.calls
            best = cls_score(at_least_f32(call.q), at_least_f32(call.k), None, call.scale).topk(count, dim=1).indices
            mask, classes = branch(substitute(before, best, draw_partners(len(best))))
            losses["mask"] = branch.mask_loss(at_least_f32(mask), best)
            if classes is not None:
                losses["mask_class"] = entropy(classes, batch)
        if weights["shaping"]:
            losses["shaping"] = shaping_loss(at_least_f32(assign))
        return losses

    return terms, branch


def _count_mixed(objective: Objective, tokens: int) -> int:
    count = int(objective.mix_share * tokens)
    if not count:
        raise TrainingError(
            f"a share of {objective.mix_share:g} of {tokens} tokens is none to substitute; give `mix_share` "
            f"{1 / tokens:.2g} or more"
        )
    return count


def _branch(model: Any, places: int, classes: int | None, seed: int) -> MixBranch:
    """With the widths of the model's own blocks, on its device."""
    block, parameter = model.blocks[-1], next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch = MixBranch(len(block.norm1.weight), block.attn.num_heads, len(block.mlp.fc1.weight), places, classes)
    return branch.to(parameter.device, parameter.dtype)


def make_step(
    model: AdaptiveViT, objective: Objective, *, frozen: int = 0, class_weights: Tensor | None = None, seed: int = 0
) -> tuple[Step, nn.Module | None]:
    """The step of an objective, and the branch that trains with the model but is not a part of it.

    The ``frozen`` leading layers, the embedding with them, run without a graph. Class weights are (C,), for the
    cross-entropy; the seed is that of the branch's first weights.

    Raises:
        TrainingError: The objective is not for this model, or its share of tokens is none.
    """
    branch: nn.Module | None = None
    weights = {name: weight for name, weight in objective.weights.items() if weight}

    def entropy(logits: Tensor, batch: Batch) -> Tensor:
        return target_loss(logits, batch, objective.smoothing, class_weights)

    if objective.loss == "mixvit_pure":
        terms, branch = pure_mix(model, objective, entropy, frozen=frozen, seed=seed)
    elif objective.loss == "mixvit_hybrid":
        terms, branch = hybrid_mix(model, objective, entropy, seed=seed)
    elif objective.loss == "pim":
        terms = _pim_terms(model, objective.weights, frozen)
    elif weights.get("features"):
        terms = _like_the_first(model, entropy, frozen)
    else:
        terms = _on_features(model, objective, entropy, frozen)

    def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        losses = terms(batch)
        loss = torch.stack([weight * losses[name] for name, weight in weights.items() if name in losses]).sum()
        backward(loss)
        values = {name: losses[name].detach() for name in weights if name in losses}
        return {"loss": loss.detach(), **(values if len(weights) > 1 else {})}

    return step, branch


def target_loss(logits: Tensor, batch: Batch, smoothing: float = 0.0, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (B, C) with a batch's labels, or with its soft targets where images were mixed.

    With smoothing s the target is (1 - s) of that plus s / C for every class (Szegedy et al., CVPR 2016, section 7).
    With class weights and whole labels it is a weighted mean over images.
    """
    logits = at_least_f32(logits)
    target = batch.labels if batch.soft is None else batch.soft.to(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(logits, target, weight=weights, label_smoothing=smoothing)


def balanced_weights(labels: np.typing.NDArray[np.int64], classes: int) -> Tensor:
    """(C,): images / (classes * images of the class); a class without images weighs as one with one."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * counts.clip(min=1))).float()


def _on_features(
    model: AdaptiveViT, objective: Objective, entropy: Callable[[Tensor, Batch], Tensor], frozen: int
) -> Terms:
    """Cross-entropy on the logits, and a contrastive loss on what the head's last layer reads."""
    contrasted = bool(objective.weights.get("contrastive"))
    if contrasted and isinstance(model.bare, Pim):
        raise TrainingError("the contrastive loss is over one feature vector of an image, and PIM has several heads")

    def terms(batch: Batch) -> Mapping[str, Tensor]:
        state = _through(model, batch.images, frozen)
        losses = {"cross_entropy": entropy(model.finish(state), batch)}
        if contrasted:
            losses["contrastive"] = contrastive_loss(at_least_f32(model.pooled(state)), batch.labels, objective.margin)
        return losses

    return terms


def _like_the_first(model: AdaptiveViT, entropy: Entropy, frozen: int) -> Terms:
    """Cross-entropy, and how far the tokens are from those of the network as it is now, which keeps all of its own.

    They meet after a third, two thirds and all of the layers, as hidden states do in TinyBERT (Jiao et al., Findings of
    EMNLP 2020, eq. 8), with a layer norm in place of its learnt projection.
    """
    teacher = copy.deepcopy(model).requires_grad_(False).eval()
    teacher.schedule = teacher.dense_schedule
    depths = {max(1, model.layers // 3), max(1, 2 * model.layers // 3), model.layers}

    def terms(batch: Batch) -> Mapping[str, Tensor]:
        known = _states_after(teacher, batch.images, depths, frozen=teacher.layers)
        states = _states_after(model, batch.images, depths, frozen)
        apart = [token_distance(state, theirs.tokens) for state, theirs in zip(states, known, strict=True)]
        return {"cross_entropy": entropy(model.finish(states[-1]), batch), "features": torch.stack(apart).sum()}

    return terms


def _states_after(model: AdaptiveViT, images: Tensor, depths: Collection[int], frozen: int) -> list[TokenState]:
    """The states after so many layers each, by the plain path; the ``frozen`` leading layers run without a graph."""
    with torch.set_grad_enabled(not frozen):
        state, states = model.start(images, track=model.merges or model.restores), []
    for layer in range(model.layers):
        with torch.set_grad_enabled(layer >= frozen):
            state = model.advance(state, [layer], model.schedule.counts)
        if layer + 1 in depths:
            states.append(state)
    return states


def token_distance(state: TokenState, theirs: Tensor) -> Tensor:
    """Mean squared distance of the normed tokens of a state from those (B, N, D) of a network that keeps all.

    A merged token is compared with the mean of those that went into it.
    """
    wanted = theirs
    if state.owner is not None:
        rows = torch.arange(state.count, device=theirs.device)
        members = (state.owner.unsqueeze(1) == rows.unsqueeze(1)).to(theirs.dtype)  # (B, n, N)
        wanted = members @ theirs / members.sum(2, keepdim=True)
    elif state.place is not None:
        wanted = gather_rows(theirs, state.place)
    width = theirs.shape[-1:]
    return F.mse_loss(F.layer_norm(at_least_f32(state.tokens), width), F.layer_norm(at_least_f32(wanted), width))


def _pim_terms(model: AdaptiveViT, weights: Mapping[str, float], frozen: int) -> Terms:
    """FGVC-PIM's four terms, each added up over the levels."""
    if not isinstance(model.bare, Pim):
        kind = type(model.bare).__name__
        raise TrainingError(f"the loss pim is for PIM, but the model is {kind}; take another loss or model")

    def terms(batch: Batch) -> Mapping[str, Tensor]:
        named = model.outputs(_through(model, batch.images, frozen)).named
        losses: dict[str, Tensor] = {}
        used = {name: at_least_f32(value) for name, value in named.items() if weights[pim_kind(name)]}
        for name, term in pim_terms(used, batch.labels).items():
            kind = pim_kind(name)
            losses[kind] = losses[kind] + term if kind in losses else term
        return losses

    return terms


def _through(model: AdaptiveViT, images: Tensor, frozen: int) -> TokenState:
    """The state after every layer, by the lean path, under the model's schedule."""
    track = model.restores
    counts = model.schedule.counts
    with torch.no_grad() if frozen else nullcontext():
        state = model.advance(model.start(images, track=track), range(frozen), counts, lean=True)
    return model.advance(state, range(frozen, model.layers), counts, lean=True)

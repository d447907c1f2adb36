"""Mix-ViT's terms, pure and hybrid: what they need of the model's passes, and the branch that predicts what was mixed.

The branch trains with the model and is no part of it: see ``branch.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tavt_kit.distill.feed import Batch
from tavt_kit.distill.losses import at_least_f32
from tavt_kit.distill.mixing import (
    AttentionCalls,
    MixBranch,
    draw_partners,
    mutual_rollout,
    shaping_loss,
    substitute,
)
from tavt_kit.distill.objective import Objective
from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.base import inside_attention
from tavt_kit.models.backbones.fusion import FusionViT
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.timm_import import timm
from tavt_kit.models.token_reduction import cls_score
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Entropy", "Terms", "hybrid_mix", "pure_mix"]

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

    Raises:
        TrainingError: The model is no plain ViT with one class token, or the share of patches is none.
    """
    bare: Any = model.bare
    plain = isinstance(bare, timm.models.vision_transformer.VisionTransformer) and not isinstance(bare, FusionViT)
    if not (plain and model.prefix == 1 and model.layout.token_pooled):
        raise TrainingError(
            "the loss mixvit_pure is for a plain ViT whose head reads its class token, but the model is "
            f"{type(bare).__name__}; take another loss or model"
        )
    patches, official = model.tokens - 1, objective.compat == "official"
    count = _count(objective, patches)
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
        found = {"cross_entropy": entropy(model.finish(state), batch)}
        if branch is not None:
            best = mutual_rollout(calls.calls).topk(count, dim=1).indices
            # Officially indices of patches are taken for places in the sequence, one place too far to the front.
            places = best if official else best + 1
            mask, _ = branch(substitute(before.tokens, places, draw_partners(len(best))))
            found["mask"] = branch.mask_loss(at_least_f32(mask), best)
        return found

    return terms, branch


def hybrid_mix(
    model: AdaptiveViT, objective: Objective, entropy: Entropy, *, seed: int
) -> tuple[Terms, MixBranch | None]:
    """The hybrid model's terms: classes, which tokens were replaced, classes of the mixed tokens, shape of the parts.

    Tokens are ranked by what the class token looks at in the last block, the class token being one of the candidates.

    Raises:
        TrainingError: The model is another, or the share of tokens is none.
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
    count = int(objective.mix_share * bare.num_tokens) if official else _count(objective, bare.num_tokens)
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
        found = {"cross_entropy": entropy(bare.forward_head(bare.norm(after)), batch)}
        if branch is not None:
            (call,) = calls.calls
            best = cls_score(at_least_f32(call.q), at_least_f32(call.k), None, call.scale).topk(count, dim=1).indices
            mask, classes = branch(substitute(before, best, draw_partners(len(best))))
            found["mask"] = branch.mask_loss(at_least_f32(mask), best)
            if classes is not None:
                found["mask_class"] = entropy(classes, batch)
        if weights["shaping"]:
            found["shaping"] = shaping_loss(at_least_f32(assign))
        return found

    return terms, branch


def _count(objective: Objective, tokens: int) -> int:
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

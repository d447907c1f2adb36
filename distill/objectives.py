"""From an objective to the step that the loop repeats, for each kind of loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tavt_kit.distill.datasets import Batch
from tavt_kit.distill.losses import PimWeights, at_least_f32, contrastive_loss, pim_terms
from tavt_kit.distill.mixing import Terms, hybrid_mix, pure_mix
from tavt_kit.distill.objective import Objective
from tavt_kit.distill.trainer import Backward, Step
from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.token_reduction import TokenState
from tavt_kit.models.wrap import AdaptiveViT


def make_step(
    model: AdaptiveViT,
    objective: Objective,
    *,
    frozen: int = 0,
    class_weights: Tensor | None = None,
    seed: int = 0,
) -> tuple[Step, nn.Module | None]:
    """The step of an objective, and the branch that trains with the model but is not a part of it.

    Args:
        model: Trained in place; nothing is dropped.
        objective: What is minimised.
        frozen: Leading layers, the embedding with them, that train nothing; they run without a graph.
        class_weights: (C,) for the cross-entropy; ``None`` weighs all classes alike.
        seed: Of the branch's first weights.

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
        terms = _pim(model, PimWeights(**objective.weights), frozen)
    else:
        terms = _on_features(model, objective, entropy, frozen)

    def step(batch: Batch, draws: np.random.Generator, backward: Backward) -> Mapping[str, Tensor]:
        found = terms(batch)
        loss = torch.stack([weight * found[name] for name, weight in weights.items() if name in found]).sum()
        backward(loss)
        values = {name: found[name].detach() for name in weights if name in found}
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
        found = {"cross_entropy": entropy(model.finish(state), batch)}
        if contrasted:
            found["contrastive"] = contrastive_loss(at_least_f32(model.pooled(state)), batch.labels, objective.margin)
        return found

    return terms


def _pim(model: AdaptiveViT, weights: PimWeights, frozen: int) -> Terms:
    """FGVC-PIM's four terms, each added up over the levels."""
    if not isinstance(model.bare, Pim):
        kind = type(model.bare).__name__
        raise TrainingError(f"the loss pim is for PIM, but the model is {kind}; take another loss or model")

    def terms(batch: Batch) -> Mapping[str, Tensor]:
        named = model.outputs(_through(model, batch.images, frozen)).named
        found: dict[str, Tensor] = {}
        used = {name: at_least_f32(value) for name, value in named.items() if weights.of(name)}
        for name, term in pim_terms(used, batch.labels).items():
            kind = weights.kind(name)
            found[kind] = found[kind] + term if kind in found else term
        return found

    return terms


def _through(model: AdaptiveViT, images: Tensor, frozen: int) -> TokenState:
    """The state after every layer, by the lean path."""
    track = model.restores
    counts = model.dense_schedule.counts
    with torch.no_grad() if frozen else nullcontext():
        state = model.advance(model.start(images, track=track), range(frozen), counts, lean=True)
    return model.advance(state, range(frozen, model.layers), counts, lean=True)

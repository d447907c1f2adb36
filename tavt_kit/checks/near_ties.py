"""Images on which a model's choice of tokens hangs on the last bits: another order of summation keeps another one.

Both are right, and the logits differ visibly: measured on ELPV photographs with DINOv2 ViT-S/14 at 112 px, on 2 images
in 1050 (margins 8e-7 and 7e-6), by 9 and 2 % of the largest logit, between torch and OpenVINO f32.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.pim import PimVitBackbone, PimWhole
from tavt_kit.models.token_reduction import Pick, TokenState, choose, gather_rows, merge_cost, similarity
from tavt_kit.models.wrap import AdaptiveViT, LeanViT

NEAR_TIE = 5e-5
"""Relative margin below which rounding may decide; by chance 2 images in 100 have a layer that narrow."""


def margins(adaptive: AdaptiveViT, schedule: TokenSchedule, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each image's narrowest choice over all layers: score of the last token kept minus that of the first that is not.

    Of a handful of images (n, 3, H, W), preprocessed -> (n,), as a share of the larger score; infinite where nothing is
    chosen. Where tokens merge, the score is the cost of merging, and which token each one goes into is a choice too.
    PIM's head chooses as well, and the order of what it selects counts (``Pim.closest``).
    """
    model = LeanViT(adaptive, schedule).eval().adaptive
    narrowest = np.full(len(images), np.inf)
    with torch.inference_mode():
        state = model.start(torch.from_numpy(images))
        for layer in range(model.layers):
            if not schedule.runs(layer):
                continue
            if schedule.counts[layer] < state.count:
                watch = Watch(model.score)
                after = model.backbone.attend(layer, state, watch)
                scores = watch.scored(layer)
                if model.reduction == "merge":
                    pick = Pick(schedule.counts[layer], model.prefix, model.score)
                    margin = _merging_margin(after, scores, pick)
                else:
                    margin = _margin(scores[:, model.prefix :], schedule.counts[layer] - model.prefix)
                narrowest = np.minimum(narrowest, margin.numpy())
            state = model.advance(state, [layer], schedule.counts)
        if isinstance(model.backbone, PimVitBackbone | PimWhole):
            narrowest = np.minimum(narrowest, model.backbone.closest(state).numpy())
    return narrowest


def _merging_margin(state: TokenState, scores: Tensor, pick: Pick) -> Tensor:
    """(B,): of the costs of merging, and between the two tokens that each one could best go into."""
    alike = similarity(state.tokens[:, pick.prefix :].float())
    importance = scores[:, pick.prefix :].float()
    kept, _ = choose(alike, importance, pick)
    narrowest = _margin(merge_cost(alike, importance), kept.shape[1])
    if kept.shape[1] == 1:
        return narrowest
    first, second = gather_rows(alike, kept).double().topk(2, dim=1).values.unbind(1)  # (B, n) each
    gaps = ((first - second) / first.abs().clamp_min(1e-30)).scatter(1, kept, float("inf"))
    return torch.minimum(narrowest, gaps.amin(dim=1))


def _margin(scores: Tensor, kept: int) -> Tensor:
    """(B, n) scores -> (B,) relative gap between the kept-th best and the next."""
    ordered = scores.double().sort(dim=1, descending=True).values
    last, first = ordered[:, kept - 1], ordered[:, kept]
    return (last - first) / last.abs().clamp_min(1e-30)

"""Images on which a model's choice of tokens hangs on the last bits: another order of summation keeps another one.

Both are right, and the logits differ visibly: measured on ELPV photographs with DINOv2 ViT-S/14 at 112 px, on 2 images
in 1050 (margins 8e-7 and 7e-6), by 9 and 2 % of the largest logit, between torch and OpenVINO f32.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.models.backbones.base import Watch
from tavt_kit.models.backbones.pim import PimVitBackbone, PimWhole
from tavt_kit.models.token_reduction import REDUCTIONS, Pick
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
                patches, scores = after.tokens[:, model.prefix :].float(), scores[:, model.prefix :].float()
                pick = Pick(schedule.counts[layer], model.prefix, model.score)
                gaps = REDUCTIONS[model.reduction].margin(patches, scores, pick)
                narrowest = np.minimum(narrowest, gaps.numpy())
            state = model.advance(state, [layer], schedule.counts)
        if isinstance(model.backbone, PimVitBackbone | PimWhole):
            narrowest = np.minimum(narrowest, model.backbone.closest(state).numpy())
    return narrowest

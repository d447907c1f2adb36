"""Dense models that a pruned one must beat: the same at a lower resolution, and smaller ones of its kind.

A pruned ViT often loses to them: ViT-B/16 pruned to 3.8 times fewer multiply-adds ran 1.31 times faster at batch 1 on a
GPU, and the dense ViT-B/32 was better and faster (reports on Torch-Pruning).
"""

from __future__ import annotations

from itertools import product
from typing import Any

from tavt_kit.checkpoints.architecture import sketch
from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import DataError, UnsupportedBackbone
from tavt_kit.models.flops import count_macs
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import wrap

_SIZES = ("huge", "large", "base", "small", "tiny")
_PATCHES = (16, 32)


def dense_baselines(card: ModelCard, macs: int) -> list[dict[str, Any]]:
    """Dense models of at most ``macs`` multiply-adds, of either kind the largest; no weights are made.

    Returns:
        For each its ``model``, ``image_size`` (pixels a side) and ``macs``; of an image that is not square none.
    """
    edge, width = Preprocessing.from_record(card.preprocessing).image_size
    if edge != width:
        return []
    # The model itself, one row of patches fewer at a time (ViTAE's stages shrink an image 32-fold).
    arguments = {name: value for name, value in card.arguments.items() if name != "pruned"}
    embed = getattr(sketch(card.name, arguments), "patch_embed", None)
    step = 32 if embed is None else int(embed.patch_size[0])
    sizes = range(edge // step * step - step * (edge % step == 0), step, -max(step, edge // 16 // step * step))
    trials: list[list[tuple[str, int, dict[str, Any]]]] = [[(card.name, size, arguments) for size in sizes], []]
    # ViTs of its size and below, at its resolution as far as their patches allow.
    own = next((i for i, size in enumerate(_SIZES) if f"_{size}" in card.name), 0)
    for size, patch in product(_SIZES[own:], _PATCHES):
        name = f"vit_{size}_patch{patch}_224"
        if name != card.name and timm.is_model(name) and edge >= 2 * patch:
            trials[1].append((name, edge // patch * patch, {"num_classes": len(card.classes)}))
    found = []
    for kind in trials:
        fitting: list[dict[str, Any]] = []
        for name, side, given in kind:
            try:
                cost = count_macs(wrap(sketch(name, {**given, "img_size": [side, side]})))
            except (DataError, UnsupportedBackbone):  # a size that this family does not take
                continue
            if cost <= macs:
                fitting.append({"model": name, "image_size": side, "macs": cost})
        found += [max(fitting, key=lambda baseline: int(baseline["macs"]))] if fitting else []
    return found

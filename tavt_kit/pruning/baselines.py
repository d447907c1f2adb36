"""Dense models that a pruned one must beat: the same at a lower resolution, and smaller ones of its kind.

A pruned ViT often loses to them: ViT-B/16 pruned to 3.8 times fewer multiply-adds ran 1.31 times faster at batch 1 on a
GPU, and the dense ViT-B/32 was better and faster (reports on Torch-Pruning).
"""

from __future__ import annotations

from collections.abc import Iterator
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
_Trial = tuple[str, int, dict[str, Any]]


def dense_baselines(card: ModelCard, macs: int) -> list[dict[str, Any]]:
    """Dense models of at most ``macs`` multiply-adds, of either kind the largest; no weights are made.

    Returns:
        For each its ``model``, ``image_size`` (pixels a side) and ``macs``; of an image that is not square none.
    """
    height, width = Preprocessing.from_record(card.preprocessing).image_size
    if height != width:
        return []
    found = [_largest(trials, macs) for trials in (_lower_resolutions(card, height), _smaller_models(card, height))]
    return [baseline for baseline in found if baseline is not None]


def _largest(trials: Iterator[_Trial], macs: int) -> dict[str, Any] | None:
    fitting: list[dict[str, Any]] = []
    for name, size, arguments in trials:
        try:
            cost = count_macs(wrap(sketch(name, {**arguments, "img_size": [size, size]})))
        except (DataError, UnsupportedBackbone):  # a size that this family does not take
            continue
        if cost <= macs:
            fitting.append({"model": name, "image_size": size, "macs": cost})
    return max(fitting, key=lambda baseline: int(baseline["macs"])) if fitting else None


def _lower_resolutions(card: ModelCard, edge: int) -> Iterator[_Trial]:
    """The model itself, one row of patches fewer at a time (ViTAE's stages shrink an image 32-fold)."""
    arguments = {name: value for name, value in card.arguments.items() if name != "pruned"}
    embed = getattr(sketch(card.name, arguments), "patch_embed", None)
    step = 32 if embed is None else int(embed.patch_size[0])
    sizes = range(edge // step * step - step * (edge % step == 0), step, -max(step, edge // 16 // step * step))
    return ((card.name, size, arguments) for size in sizes)


def _smaller_models(card: ModelCard, edge: int) -> Iterator[_Trial]:
    """ViTs of its size and below, at its resolution as far as their patches allow."""
    own = next((i for i, size in enumerate(_SIZES) if f"_{size}" in card.name), 0)
    for size in _SIZES[own:]:
        for patch in _PATCHES:
            name = f"vit_{size}_patch{patch}_224"
            if name != card.name and timm.is_model(name) and edge >= 2 * patch:
                yield name, edge // patch * patch, {"num_classes": len(card.classes)}

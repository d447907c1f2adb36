"""One image through a model, and everything that can be shown of it.

Of every family the attention rollout and the patches that each layer keeps. Of FFVT the tokens that are fused (by
mutual attention weights), of TransFG the patch of each head, of Mix-ViT's hybrid the parts, of PIM how probable one
class is at every place: the one that is asked for, where the official code shows the largest probability of any class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.errors import MeasurementError
from tavt_kit.models.backbones.ffvt import FfvtBackbone
from tavt_kit.models.backbones.fusion import FusionBackbone
from tavt_kit.models.backbones.map_watch import MapWatch
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.backbones.pim_vit import PimVitBackbone
from tavt_kit.models.token_reduction import TokenState
from tavt_kit.models.wrap import AdaptiveViT


@dataclass(frozen=True, slots=True)
class Heat:
    """A map over the image: (rows, columns) values of at least 0, with a name for records and a title for people."""

    name: str
    title: str
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Marked:
    """Patches of the grid, row by row from 0, with names like those of a ``Heat``; one chosen twice is there twice."""

    name: str
    title: str
    patches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """What a model made of one image.

    Args:
        probabilities: (classes,)
        label: The class that was asked for, or the likeliest.
        heats: Maps, the rollout first.
        kept: For each layer that dropped something, what it kept.
        taken: What a fusion took from each layer, or from each head.
    """

    probabilities: NDArray[np.float32]
    label: int
    grid: tuple[int, int]
    heats: tuple[Heat, ...]
    kept: tuple[Marked, ...]
    taken: tuple[Marked, ...]

    @property
    def titles(self) -> tuple[str, ...]:
        """What is shown, in the order it is drawn."""
        return (*(heat.title for heat in self.heats), *(mark.title for mark in (*self.kept, *self.taken)))


@torch.no_grad()
def explain(
    adaptive: AdaptiveViT, image: Tensor, label: int | None = None, classes: Sequence[str] | None = None
) -> Explained:
    """Run one image under the model's schedule, and keep what can be shown.

    Args:
        adaptive: Wrapped, in eval mode.
        image: (3, H, W), preprocessed.
        label: The class that class-specific maps are made for; ``None`` takes the likeliest.
        classes: Their names, for titles.

    Raises:
        MeasurementError: A logit is not finite.
    """
    state, maps, kept, chosen = _layers(adaptive, image[None])
    logits = adaptive.finish(state)[0].float()
    if not bool(torch.isfinite(logits).all()):
        raise MeasurementError("the model's logits are not finite, so there is nothing to show; look at its weights")
    shares = logits.softmax(dim=0)
    label = int(shares.argmax()) if label is None else label
    name = f"class {label}" if classes is None else classes[label]
    heats = [*_rollout(adaptive, maps, kept), *_pim_heat(adaptive, state, label, name), *_parts(adaptive, image[None])]
    dropped, before = [], adaptive.tokens
    for layer, left in kept.items():
        if len(left) != before:
            dropped.append(Marked(f"layer-{layer}", f"layer {layer}: {len(left)} tokens", _patches(adaptive, left)))
        before = len(left)
    return Explained(shares.numpy(), label, adaptive.grid, tuple(heats), tuple(dropped), chosen)


_Maps = list[tuple[Tensor, Tensor]]


def _layers(adaptive: AdaptiveViT, images: Tensor) -> tuple[TokenState, _Maps, dict[int, Tensor], tuple[Marked, ...]]:
    """The last state; of each layer that drops by attention its map and who entered, and who was left after it."""
    state = adaptive.start(images, track=adaptive.restores)
    everyone = torch.arange(adaptive.tokens, device=images.device)
    maps: _Maps = []
    kept: dict[int, Tensor] = {}
    chosen: tuple[Marked, ...] = ()
    executed = adaptive.schedule.executed
    for layer in range(adaptive.layers) if executed is None else executed:
        entered = everyone if state.place is None else state.place[0]
        watch = MapWatch(adaptive.score) if adaptive.backbone.droppable[layer] else None
        if watch is None:
            chosen = _taken(adaptive, state)
        state = adaptive.advance(state, [layer], adaptive.schedule.counts, watch=watch)
        if watch is not None:
            # TransFG keeps the maps itself, of every head.
            attention = watch.mean()[0] if watch.maps else state.notes["maps"][-1][0][0].mean(dim=0)
            maps.append((attention, entered))
            kept[layer] = everyone if state.place is None else state.place[0]
    return state, maps, kept, chosen


def _patches(adaptive: AdaptiveViT, places: Tensor) -> tuple[int, ...]:
    return tuple(int(place) - adaptive.prefix for place in places if place >= adaptive.prefix)


def _rollout(adaptive: AdaptiveViT, maps: _Maps, kept: Mapping[int, Tensor]) -> list[Heat]:
    """From the class token, where the head or a fusion reads one, else from all patches that are left."""
    if not maps:
        return []
    left = list(kept.values())[-1]
    by_class = adaptive.layout.token_pooled or isinstance(adaptive.backbone, FusionBackbone)
    weights = (left < 1 if by_class else left >= adaptive.prefix).float()
    share = attention_rollout(maps, left, weights / weights.sum(), adaptive.tokens)
    title = "attention rollout" + (" before the fusion" if isinstance(adaptive.backbone, FusionBackbone) else "")
    return [Heat("rollout", title, share[adaptive.prefix :].reshape(adaptive.grid).cpu().numpy())]


def attention_rollout(maps: Sequence[tuple[Tensor, Tensor]], left: Tensor, weights: Tensor, tokens: int) -> Tensor:
    """How much of every original token is in what the head reads, of one image (Abnar and Zuidema, ACL 2020).

    Each layer passes on half of what attention mixed and half of the token itself: A = (map + 1) / 2 (equation 1 of the
    paper). A token that was dropped in a layer has passed on nothing from there.

    Args:
        maps: For each layer its attention (n, n), rows summing to 1, and the places (n,) of the tokens that entered it.
        left: Places (k,) of the tokens that left the last layer.
        weights: (k,) what the head makes of them: 1 at the class token, or equal shares of the patches.
        tokens: N, of the whole sequence.

    Returns:
        (N,), summing to what the weights sum to.

    Example:
        >>> import torch
        >>> places = torch.arange(2)
        >>> attention_rollout([(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), places)], places, torch.tensor([1.0, 0.0]), 2)
        tensor([0.5000, 0.5000])
    """
    share = weights.new_zeros(tokens).index_copy(0, left, weights)
    for attention, entered in reversed(maps):
        row = share[entered]
        passed = (row @ attention.to(row.dtype) + row) / 2
        share = share.new_zeros(tokens).index_copy(0, entered, passed)
    return share


def _taken(adaptive: AdaptiveViT, state: TokenState) -> tuple[Marked, ...]:
    """What the fusion of FFVT takes from each layer, and that of TransFG for each head."""
    backbone: Any = adaptive.backbone
    if not isinstance(backbone, FusionBackbone):
        return ()
    if isinstance(backbone, FfvtBackbone):
        taken = [places[0] for _, places in state.notes["taken"]]
        return tuple(
            Marked(f"maws-{i}", f"fused from layer {i}", _patches(adaptive, places)) for i, places in enumerate(taken)
        )
    return (Marked("parts", "the patch of each head", _patches(adaptive, backbone.chosen(state)[1][0])),)


def _pim_heat(adaptive: AdaptiveViT, state: TokenState, label: int, name: str) -> list[Heat]:
    """PIM: the mean over the levels of the probability of one class, at every place."""
    model: Any = adaptive.bare
    if not isinstance(model, Pim):
        return []
    backbone: Any = adaptive.backbone
    levels: Sequence[Tensor] = backbone.levels(state)
    if isinstance(backbone, PimVitBackbone):
        grids = [adaptive.grid] * len(levels)
    else:
        grids = [level.grid or _grid_of(level.places, model.image_size) for level in model.plan]
    _, logits = model.judge(levels)
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    maps = [
        F.interpolate(
            each[:, -rows * columns :].softmax(dim=2)[..., label].reshape(1, 1, rows, columns),
            size=finest,
            mode="bilinear",
        )
        for each, (rows, columns) in zip(logits, grids, strict=True)
    ]  # the last places are the patches; a class token stands before them
    return [Heat("pim", f"probability of {name}", torch.cat(maps).mean(dim=0)[0].cpu().numpy())]


def _grid_of(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a level of so many places on an image (H, W)."""
    rows = round((places * size[0] / size[1]) ** 0.5)
    return rows, places // rows


def _parts(adaptive: AdaptiveViT, images: Tensor) -> list[Heat]:
    """Mix-ViT's hybrid: how much each place belongs to each part."""
    model: Any = adaptive.bare
    if not isinstance(model, MixVitHybrid):
        return []
    _, assign = model.grouping(model.resnet(images))
    return [Heat(f"part-{i}", f"part {i + 1}", part.cpu().numpy()) for i, part in enumerate(assign[0])]

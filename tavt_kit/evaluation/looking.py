"""One image through a model, and everything that can be shown of it; its drawings; ``kept.json`` of a few images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tavt_kit.core.records import make_folder, write_record
from tavt_kit.data import ImageSet, Sample
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop, save_thumbnail
from tavt_kit.errors import MeasurementError
from tavt_kit.models.backbones.base import MapWatch
from tavt_kit.models.backbones.fusion import FusionBackbone
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.backbones.pim import Pim, PimVitBackbone
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
    """Patches of the grid, row by row from 0, with names like those of a ``Heat``."""

    name: str
    title: str
    patches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """What a model made of one image, under the class that was asked for or is the likeliest.

    Its maps, the rollout first, and for each layer that dropped something what it kept.
    """

    probabilities: NDArray[np.float32]
    label: int
    grid: tuple[int, int]
    heats: tuple[Heat, ...]
    kept: tuple[Marked, ...]

    @property
    def titles(self) -> tuple[str, ...]:
        """What is shown, in the order it is drawn."""
        return (*(heat.title for heat in self.heats), *(mark.title for mark in self.kept))


@torch.no_grad()
def explain(
    adaptive: AdaptiveViT, image: Tensor, label: int | None = None, classes: Sequence[str] | None = None
) -> Explained:
    """Run one image under the model's schedule, and keep what can be shown: of the class ``label``, else the likeliest.

    Raises MeasurementError: a logit is not finite.
    """
    state, maps, kept = _layers(adaptive, image[None])
    logits = adaptive.finish(state)[0].float()
    if not bool(torch.isfinite(logits).all()):
        raise MeasurementError("the model's logits are not finite, so there is nothing to show; look at its weights")
    shares = logits.softmax(dim=0)
    label = int(shares.argmax()) if label is None else label
    name = f"class {label}" if classes is None else classes[label]
    heats = [*_rollout(adaptive, maps, kept), *_pim_heat(adaptive, state, label, name)]
    model: Any = adaptive.bare
    if isinstance(model, MixVitHybrid):  # how much each place belongs to each part
        _, assign = model.grouping(model.resnet(image[None]))
        heats += [Heat(f"part-{i}", f"part {i + 1}", part.cpu().numpy()) for i, part in enumerate(assign[0])]
    dropped, before, first = [], adaptive.tokens, adaptive.prefix
    for layer, left in kept.items():
        if len(left) != before:
            patches = tuple(token - first for token in left.tolist() if token >= first)
            dropped.append(Marked(f"layer-{layer}", f"layer {layer}: {len(left)} tokens", patches))
        before = len(left)
    return Explained(shares.numpy(), label, adaptive.grid, tuple(heats), tuple(dropped))


_Maps = list[tuple[Tensor, Tensor]]


def _layers(adaptive: AdaptiveViT, images: Tensor) -> tuple[TokenState, _Maps, dict[int, Tensor]]:
    """The last state; of each layer that drops by attention its map and who entered, and who was left after it."""
    state = adaptive.start(images, track=adaptive.restores)
    everyone = torch.arange(adaptive.tokens, device=images.device)
    maps: _Maps = []
    kept: dict[int, Tensor] = {}
    for layer in adaptive.schedule.running:
        entered = everyone if state.place is None else state.place[0]
        watch = MapWatch(adaptive.score) if adaptive.backbone.droppable[layer] else None
        state = adaptive.advance(state, [layer], adaptive.schedule.counts, watch=watch)
        if watch is not None:
            # TransFG keeps the maps itself, of every head.
            attention = watch.mean()[0] if watch.maps else state.notes["maps"][-1][0][0].mean(dim=0)
            maps.append((attention, entered))
            kept[layer] = everyone if state.place is None else state.place[0]
    return state, maps, kept


def _rollout(adaptive: AdaptiveViT, maps: _Maps, kept: Mapping[int, Tensor]) -> list[Heat]:
    """From the class token, where the head or a fusion reads one, else from all patches that are left."""
    if not maps:
        return []
    left, fuses = list(kept.values())[-1], isinstance(adaptive.backbone, FusionBackbone)
    weights = (left < 1 if adaptive.layout.token_pooled or fuses else left >= adaptive.prefix).float()
    share = attention_rollout(maps, left, weights / weights.sum(), adaptive.tokens)
    title = f"attention rollout{' before the fusion' if fuses else ''}"
    return [Heat("rollout", title, share[adaptive.prefix :].reshape(adaptive.grid).cpu().numpy())]


def attention_rollout(maps: Sequence[tuple[Tensor, Tensor]], left: Tensor, weights: Tensor, tokens: int) -> Tensor:
    """How much of every original token is in what the head reads, of one image (Abnar and Zuidema, ACL 2020).

    Each layer passes on half of what attention mixed and half of the token itself: A = (map + 1) / 2 (equation 1 of the
    paper). A token that was dropped in a layer has passed on nothing from there.

    Args:
        maps: For each layer its attention (n, n), rows summing to 1, and the places (n,) of the tokens that entered it.
        left: Places (k,) of the tokens that left the last layer.
        weights: (k,) what the head makes of them: 1 at the class token, or equal shares of the patches.
    """
    share = weights.new_zeros(tokens).index_copy(0, left, weights)
    for attention, entered in reversed(maps):
        row = share[entered]
        passed = (row @ attention.to(row.dtype) + row) / 2
        share = share.new_zeros(tokens).index_copy(0, entered, passed)
    return share


def _pim_heat(adaptive: AdaptiveViT, state: TokenState, label: int, name: str) -> list[Heat]:
    """PIM: the mean over the levels of the probability of one class, at every place."""
    model: Any = adaptive.bare
    if not isinstance(model, Pim):
        return []
    backbone: Any = adaptive.backbone
    levels: Sequence[Tensor] = backbone.levels(state)
    grids = [adaptive.grid] * len(levels)
    if not isinstance(backbone, PimVitBackbone):
        high, wide = model.image_size
        rows = [round((level.places * high / wide) ** 0.5) for level in model.plan]
        grids = [level.grid or (row, level.places // row) for level, row in zip(model.plan, rows, strict=True)]
    _, logits = model.judge(levels)
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    maps = []
    for each, (high, wide) in zip(logits, grids, strict=True):
        # The last places are the patches; a class token stands before them.
        shares = each[:, -high * wide :].softmax(dim=2)[..., label].reshape(1, 1, high, wide)
        maps.append(F.interpolate(shares, size=finest, mode="bilinear"))
    return [Heat("pim", f"probability of {name}", torch.cat(maps).mean(dim=0)[0].cpu().numpy())]


SIDE = 224
"""Longest side of a panel in pixels."""

_CAPTION, _GAP, _COLUMNS = 20, 6, 6
_BACK, _INK = (255, 255, 255), (20, 20, 20)
_SCALE = ((0.0, (24, 24, 80)), (0.35, (122, 32, 122)), (0.7, (230, 90, 60)), (1.0, (255, 240, 120)))
"""Colours of a map from nothing to its largest value; their lightness rises all the way, so grey prints serve too."""


def draw_explained(image: Image.Image, explained: Explained, caption: str) -> Image.Image:
    """The image, its maps, and what each layer kept, as one sheet of panels."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BICUBIC)
    panels = [(caption, small), *((heat.title, heat_panel(small, heat)) for heat in explained.heats)]
    panels += [(mark.title, kept_panel(small, mark, explained.grid)) for mark in explained.kept]
    columns, font = min(_COLUMNS, len(panels)), ImageFont.load_default(13)  # Pillow's own, the same on every machine
    wide, high = small.width + _GAP, small.height + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, math.ceil(len(panels) / columns) * high + _GAP), _BACK)
    draw = ImageDraw.Draw(sheet)
    for number, (title, panel) in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = _GAP + column * wide, _GAP + row * high
        sheet.paste(panel, (left, top))
        draw.text((left, top + panel.height + 3), shortened(title, font, wide - _GAP), fill=_INK, font=font)
    return sheet


def heat_panel(image: Image.Image, heat: Heat) -> Image.Image:
    """The image in grey under the colours of the map; the largest value has the last colour."""
    peak = float(heat.values.max())
    values = heat.values / peak if peak > 0 else heat.values
    smooth = Image.fromarray(values.astype(np.float32), mode="F").resize(image.size, Image.Resampling.BICUBIC)
    shares, stops = np.clip(np.asarray(smooth), 0.0, 1.0), [stop for stop, _ in _SCALE]
    channels = [np.interp(shares, stops, [colour[i] for _, colour in _SCALE]) for i in range(3)]
    coloured = Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
    return Image.blend(image.convert("L").convert("RGB"), coloured, 0.55)


def kept_panel(image: Image.Image, kept: Marked, grid: tuple[int, int]) -> Image.Image:
    """The image with everything but the kept patches dark."""
    mask = np.zeros(grid[0] * grid[1], dtype=np.uint8)
    mask[list(kept.patches)] = 255
    shape = Image.fromarray(mask.reshape(grid)).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(image, Image.blend(image, Image.new("RGB", image.size), 0.82), shape)


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: float) -> str:
    """The text, its end cut off where it is wider than ``wide`` pixels."""
    if font.getlength(text) <= wide:
        return text
    while text and font.getlength(f"{text}…") > wide:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""


KEPT_FILE = "kept.json"


def write_kept(
    adaptive: AdaptiveViT,
    samples: Sequence[Sample],
    images: ImageSet,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    split: str,
) -> Path:
    """Run a few images and write what each executed layer keeps as ``kept.json``, whose path is given.

    Positions in it count patches row by row from 0; prefix tokens are left out. Where tokens merge, ``owners`` has for
    each layer and each patch the one whose token it is in.
    """
    thumbnails, entries = make_folder(Path(folder) / "thumbnails"), list[dict[str, Any]]()
    for sample in samples:
        pixels = resize_crop(open_image(sample.path), preprocessing)
        name = f"{len(entries):02d}.jpg"
        save_thumbnail(pixels, thumbnails / name)
        prediction, probability, patches = _run(adaptive, normalise(pixels, preprocessing))
        entries.append({
            "file": images.relative(sample), "thumbnail": f"thumbnails/{name}", "label": images.classes[sample.label],
            "prediction": images.classes[prediction], "probability": round(probability, 6), **patches,
        })  # fmt: skip
    body = {
        "data": images.name, "split": split,
        "licence": None if images.licence is None else images.licence.as_record(),
        "schedule": list(adaptive.schedule.counts), "layers": list(adaptive.schedule.running),
        "tokens": adaptive.tokens, "prefix": adaptive.prefix, "grid": list(adaptive.grid), "score": adaptive.score,
        **({} if adaptive.reduction == "drop" else {"reduction": adaptive.reduction}),
        "image_size": list(preprocessing.image_size), "images": entries,
    }  # fmt: skip
    path = Path(folder) / KEPT_FILE
    write_record(path, "kept", body)
    return path


def _run(adaptive: AdaptiveViT, image: NDArray[np.float32]) -> tuple[int, float, dict[str, list[list[int]]]]:
    """Prediction, its probability, and for each executed layer the patches kept and their owners.

    One image at a time, because a few images cost nothing and a batch at 448 px costs memory.
    """
    weight, was_training = next(adaptive.parameters()), adaptive.training
    adaptive.eval()
    try:
        with torch.inference_mode():
            batch = torch.from_numpy(image)[None].to(device=weight.device, dtype=weight.dtype)
            merging = adaptive.merges
            logits, rows = adaptive.forward_owned(batch) if merging else adaptive.forward_kept(batch)
    finally:
        adaptive.train(was_training)
    shares, first = logits[0].float().softmax(0), adaptive.prefix
    prediction = int(shares.argmax())
    # What owns a patch stays, and what stays owns itself.
    patches = {"kept": [[token - first for token in sorted(set(row[0].tolist())) if token >= first] for row in rows]}
    if merging:
        patches["owners"] = [[token - first for token in row[0, first:].tolist()] for row in rows]
    return prediction, float(shares[prediction]), patches

"""Maps and patches drawn over a picture, panels side by side, and a contact sheet of many pictures; PIL only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tavt_kit.evaluation.lettering import font_of, shortened
from tavt_kit.evaluation.looking import Explained, Heat, Marked

__all__ = ["contact_sheet", "draw_explained", "heat_panel", "kept_panel", "taken_panel"]

SIDE = 224
"""Longest side of a panel in pixels."""

_CAPTION, _GAP, _COLUMNS = 20, 6, 6
_BACK, _INK = (255, 255, 255), (20, 20, 20)
_SCALE = ((0.0, (24, 24, 80)), (0.35, (122, 32, 122)), (0.7, (230, 90, 60)), (1.0, (255, 240, 120)))
"""Colours of a map from nothing to its largest value; their lightness rises all the way, so grey prints serve too."""

Panel = tuple[str, Image.Image]


def draw_explained(picture: Image.Image, explained: Explained, caption: str) -> Image.Image:
    """The picture, its maps, what each layer kept and what was fused, as one sheet of panels.

    Args:
        picture: As the model saw it: resized and cropped.
        explained: Of that picture.
        caption: Under the picture.
    """
    small = _fit(picture)
    panels = [(caption, small), *((heat.title, heat_panel(small, heat)) for heat in explained.heats)]
    panels += [(kept.title, kept_panel(small, kept, explained.grid)) for kept in explained.kept]
    panels += [(taken.title, taken_panel(small, taken, explained.grid)) for taken in explained.taken]
    return _sheet(panels)


def contact_sheet(rows: Sequence[tuple[Image.Image, Explained, str]]) -> Image.Image:
    """Of each picture the picture, its first map, and what the last layer kept or the first took."""
    panels: list[Panel] = []
    each = max((len(_highlights(one)) + 1 for _, one, _ in rows), default=1)
    for picture, explained, caption in rows:
        small = _fit(picture)
        shown: list[Panel] = [(caption, small)]
        for mark in _highlights(explained):
            if isinstance(mark, Heat):
                shown.append((mark.title, heat_panel(small, mark)))
            elif mark in explained.kept:
                shown.append((mark.title, kept_panel(small, mark, explained.grid)))
            else:
                shown.append((mark.title, taken_panel(small, mark, explained.grid)))
        panels += [*shown, *[("", Image.new("RGB", small.size, _BACK))] * (each - len(shown))]
    return _sheet(panels, columns=each * max(1, _COLUMNS // each))


def _highlights(explained: Explained) -> list[Heat | Marked]:
    return [*explained.heats[:2], *explained.kept[-1:], *explained.taken[-1:]]


def heat_panel(picture: Image.Image, heat: Heat) -> Image.Image:
    """The picture in grey under the colours of the map; the largest value has the last colour."""
    peak = float(heat.values.max())
    values = heat.values / peak if peak > 0 else heat.values
    smooth = Image.fromarray(values.astype(np.float32), mode="F").resize(picture.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray(_coloured(np.clip(np.asarray(smooth), 0.0, 1.0)))
    return Image.blend(picture.convert("L").convert("RGB"), colours, 0.55)


def _coloured(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    stops = [stop for stop, _ in _SCALE]
    channels = [np.interp(values, stops, [colour[i] for _, colour in _SCALE]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def kept_panel(picture: Image.Image, kept: Marked, grid: tuple[int, int]) -> Image.Image:
    """The picture with everything but the kept patches dark."""
    mask = np.zeros(grid[0] * grid[1], dtype=np.uint8)
    mask[list(kept.patches)] = 255
    shape = Image.fromarray(mask.reshape(grid)).resize(picture.size, Image.Resampling.NEAREST)
    dark = Image.blend(picture, Image.new("RGB", picture.size), 0.82)
    return Image.composite(picture, dark, shape)


def taken_panel(picture: Image.Image, taken: Marked, grid: tuple[int, int]) -> Image.Image:
    """The picture with a frame around each patch that was taken, thicker where it was taken more than once."""
    panel = picture.copy()
    draw = ImageDraw.Draw(panel)
    high, wide = picture.height / grid[0], picture.width / grid[1]
    for patch in sorted(set(taken.patches)):
        row, column = divmod(patch, grid[1])
        box = (round(column * wide), round(row * high), round((column + 1) * wide) - 1, round((row + 1) * high) - 1)
        draw.rectangle(box, outline=_SCALE[-1][1], width=1 + min(taken.patches.count(patch), 3))
    return panel


def _fit(picture: Image.Image) -> Image.Image:
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _sheet(panels: Sequence[Panel], columns: int = _COLUMNS) -> Image.Image:
    columns = min(columns, len(panels))
    high = max(panel.height for _, panel in panels) + _CAPTION + _GAP
    wide = max(panel.width for _, panel in panels) + _GAP
    sheet = Image.new("RGB", (columns * wide + _GAP, math.ceil(len(panels) / columns) * high + _GAP), _BACK)
    draw, font = ImageDraw.Draw(sheet), font_of(13)
    for number, (title, panel) in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = _GAP + column * wide, _GAP + row * high
        sheet.paste(panel, (left, top))
        draw.text((left, top + panel.height + 3), shortened(title, font, wide - _GAP), fill=_INK, font=font)
    return sheet

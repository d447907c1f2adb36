"""Maps and patches drawn over an image, panels side by side, and a contact sheet of many images; PIL only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tavt_kit.evaluation.drawing import font_of, shortened
from tavt_kit.evaluation.looking import Explained, Heat, Marked

SIDE = 224
"""Longest side of a panel in pixels."""

_CAPTION, _GAP, _COLUMNS = 20, 6, 6
_BACK, _INK = (255, 255, 255), (20, 20, 20)
_SCALE = ((0.0, (24, 24, 80)), (0.35, (122, 32, 122)), (0.7, (230, 90, 60)), (1.0, (255, 240, 120)))
"""Colours of a map from nothing to its largest value; their lightness rises all the way, so grey prints serve too."""

Panel = tuple[str, Image.Image]


def draw_explained(image: Image.Image, explained: Explained, caption: str) -> Image.Image:
    """The image, its maps, what each layer kept and what was fused, as one sheet of panels.

    Args:
        image: As the model saw it: resized and cropped.
        explained: Of that image.
        caption: Under the image.
    """
    return _sheet(_panels(image, explained, caption, (*explained.heats, *explained.kept, *explained.taken)))


def contact_sheet(rows: Sequence[tuple[Image.Image, Explained, str]]) -> Image.Image:
    """Of each image the image, its first maps, and what the last layer kept or took."""
    shown = [
        _panels(image, one, caption, (*one.heats[:2], *one.kept[-1:], *one.taken[-1:])) for image, one, caption in rows
    ]
    each = max(map(len, shown), default=1)
    blank = [("", Image.new("RGB", (1, 1), _BACK))]
    panels = [panel for row in shown for panel in (*row, *blank * (each - len(row)))]
    return _sheet(panels, columns=each * max(1, _COLUMNS // each))


def _panels(image: Image.Image, explained: Explained, caption: str, marks: Sequence[Heat | Marked]) -> list[Panel]:
    """The image in the size of a panel, and a panel for each map and each choice of patches."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.BICUBIC)
    panels = [(caption, small)]
    for mark in marks:
        if isinstance(mark, Heat):
            panels.append((mark.title, heat_panel(small, mark)))
        else:
            draw = kept_panel if mark in explained.kept else taken_panel
            panels.append((mark.title, draw(small, mark, explained.grid)))
    return panels


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


def taken_panel(image: Image.Image, taken: Marked, grid: tuple[int, int]) -> Image.Image:
    """The image with a frame around each patch that was taken, thicker where it was taken more than once."""
    panel = image.copy()
    draw = ImageDraw.Draw(panel)
    high, wide = image.height / grid[0], image.width / grid[1]
    for patch in sorted(set(taken.patches)):
        row, column = divmod(patch, grid[1])
        box = (round(column * wide), round(row * high), round((column + 1) * wide) - 1, round((row + 1) * high) - 1)
        draw.rectangle(box, outline=_SCALE[-1][1], width=1 + min(taken.patches.count(patch), 3))
    return panel


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

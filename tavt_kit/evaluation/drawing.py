"""The confusion matrix as an image, and the lettering of all that is drawn; PIL only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_BACK, _INK, _FAINT, _LINE = (255, 255, 255), (24, 28, 34), (96, 104, 114), (218, 222, 228)
_RIGHT, _WRONG = (11, 110, 117), (196, 74, 22)
_WANTED, _ACROSS, _LARGEST, _NAMED, _NUMBERED = 1000, 2200, 46, 10, 22
"""Pixels that a matrix measures if its cells can have names then, and at most; of a cell at most; and at least where
its class is named, or its number is written into it."""


@cache
def load_font(size: int) -> Font:
    """Pillow's own font, so that an image is the same on every machine."""
    return ImageFont.load_default(size)


def shortened(text: str, font: Font, wide: float) -> str:
    """The text, its end cut off where it is wider than ``wide`` pixels."""
    if font.getlength(text) <= wide:
        return text
    while text and font.getlength(f"{text}…") > wide:
        text = text[:-1]
    return f"{text.rstrip()}…" if text else ""


def draw_confusion(record: Mapping[str, Any]) -> Image.Image:
    """The matrix of an evaluation: rows the truth, columns what was said; a cell's colour is its share of the row.

    What is right is green, what is wrong orange, and the root of the share sets the strength, so that one mistake in
    thirty can still be seen. Names stand at the edges where there is room, else every tenth number of a class.
    """
    names, counts = [f"{i} {name}" for i, name in enumerate(record["classes"])], np.array(record["confusion"])
    cell = min(_LARGEST, max(_WANTED // len(names), min(_NAMED + 1, _ACROSS // len(names)), 2))
    font, side = load_font(max(9, min(14, cell - 2))), len(names) * cell
    edge = int(min(max(font.getlength(name) for name in names), 220)) + 10 if cell >= _NAMED else 40
    left, top = edge + 34, edge + 58
    image = Image.new("RGB", (max(left + side + 20, 420), top + side + 46), _BACK)
    draw = ImageDraw.Draw(image)
    top1 = record["top1"]
    title = f"top-1 {100 * top1['value']:.1f} % of {top1['n']} images ({top1['split']})"
    draw.text((14, 12), title, fill=_INK, font=load_font(16))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = _shaded(np.where(np.eye(len(names))[..., None], _RIGHT, _WRONG), shares)
    image.paste(Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST), (left, top))
    for row, column in np.argwhere(counts) if cell >= _NUMBERED else ():
        ink = _BACK if _strength(shares[row, column]) > 0.62 else _INK
        centre = left + (column + 0.5) * cell, top + (row + 0.5) * cell
        draw.text(centre, str(counts[row, column]), fill=ink, font=font, anchor="mm")
    # A line between any two classes, or every ten where lines would hide the cells.
    for index in [*range(0, len(names), 1 if cell >= 16 else 10), len(names)]:
        x, y = left + index * cell - 1, top + index * cell - 1
        draw.line((x, top - 1, x, top + side - 1), fill=_LINE)
        draw.line((left - 1, y, left + side - 1, y), fill=_LINE)
    _name_sides(image, names, cell, edge)
    _legend(draw, left, top + side + 16)
    return image


def _strength(shares: Any) -> Any:
    return np.where(shares > 0, 0.12 + 0.88 * np.sqrt(shares), 0.0)


def _shaded(colours: Any, shares: Any) -> Any:
    """Colours (..., 3), as strong as their shares (...) of 1 make them."""
    return np.round(255 + (np.asarray(colours) - 255) * _strength(shares)[..., None]).astype(np.uint8)


def _name_sides(image: Image.Image, names: Sequence[str], cell: int, edge: int) -> None:
    """Names or numbers at the left and, turned, at the top; the words truth and said beyond them."""
    draw, left, top, named = ImageDraw.Draw(image), edge + 34, edge + 58, cell >= _NAMED
    font, side = load_font(max(9, min(14, cell - 2)) if named else 11), len(names) * cell
    for index in range(0, len(names), 1 if named else 10):
        text = shortened(names[index], font, edge - 8) if named else str(index)
        middle, high = round((index + 0.5) * cell), max(cell, 14)
        draw.text((left - 6, top + middle), text, fill=_INK, font=font, anchor="rm")
        _turned(image, text, font, (edge, high), (left + middle - high // 2, top - edge - 4))
    draw.text((left + side / 2, top - edge - 8), "said", fill=_FAINT, font=load_font(13), anchor="mb")
    _turned(image, "truth", load_font(13), (60, 20), (8, top + max(0, side // 2 - 30)))


def _turned(image: Image.Image, text: str, font: Font, size: tuple[int, int], corner: tuple[int, int]) -> None:
    """Text from bottom to top, in a box of this size before it is turned, with this left upper corner."""
    box = Image.new("RGB", size, _BACK)
    ImageDraw.Draw(box).text((2, size[1] / 2), text, fill=_INK, font=font, anchor="lm")
    image.paste(box.transpose(Image.Transpose.ROTATE_90), corner)


def _legend(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    font, shares = load_font(12), np.array((0.05, 0.25, 1.0))
    for x, colour, text in ((left, _RIGHT, "right"), (left + 100, _WRONG, "wrong")):
        for i, shade in enumerate(_shaded([colour] * 3, shares).tolist()):
            draw.rectangle((x + 16 * i, top, x + 16 * i + 15, top + 13), fill=tuple(shade))
        draw.text((x + 54, top + 7), text, fill=_FAINT, font=font, anchor="lm")
    draw.text((left + 200, top + 7), "5, 25 and 100 % of a row", fill=_FAINT, font=font, anchor="lm")

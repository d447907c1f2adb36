"""The confusion matrix and the reliability diagram as images, and the lettering of all that is drawn; PIL only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tavt_kit.core.accuracy import wilson

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


_LEFT, _TOP, _PLOT, _COUNTS, _FINE = 64, 48, 360, 80, 3
"""Pixels beside and above the diagram, of its sides and of the counts below it, and how much larger it is drawn before
it is shrunk."""
_BELOW = _TOP + _PLOT + 56
"""Where the counts begin."""


def draw_reliability(record: Mapping[str, Any]) -> Image.Image:
    """The reliability diagram of an evaluation: accuracy over confidence in bins, and how many images each bin has.

    A model that means its probabilities has its bars end on the diagonal. Whiskers are 95 % intervals (Wilson).
    """
    calibration, top1 = record["calibration"], record["top1"]
    bins = [one for one in calibration["bins"] if one["n"]]
    most = max((one["n"] for one in bins), default=0)
    wide, high = _LEFT + _PLOT + 24, _BELOW + _COUNTS + 44
    fine = Image.new("RGB", (wide * _FINE, high * _FINE), _BACK)
    _draw_bins(ImageDraw.Draw(fine), bins, most)
    image = fine.resize((wide, high), Image.Resampling.LANCZOS)
    draw, font = ImageDraw.Draw(image), load_font(12)
    title = f"calibration error {100 * calibration['error']:.1f} %; {top1['n']} images ({top1['split']})"
    draw.text((14, 14), title, fill=_INK, font=load_font(16))
    for tick in range(6):
        text, far = f"{20 * tick} %", tick / 5 * _PLOT
        draw.text((_LEFT - 8, _TOP + _PLOT - far), text, fill=_FAINT, font=font, anchor="rm")
        draw.text((_LEFT + far, _TOP + _PLOT + 6), text, fill=_FAINT, font=font, anchor="ma")
    draw.text((_LEFT + _PLOT / 2, _TOP + _PLOT + 24), "confidence", fill=_INK, font=font, anchor="ma")
    _turned(image, "accuracy", font, (80, 18), (4, _TOP + _PLOT // 2 - 40))
    for y, count in ((_BELOW, most), (_BELOW + _COUNTS, 0)):
        draw.text((_LEFT - 8, y), str(count), fill=_FAINT, font=font, anchor="rm")
    _turned(image, "images", font, (_COUNTS, 18), (4, _BELOW))
    key = "bars: accuracy; whiskers: 95 % intervals; line: confidence = accuracy"
    draw.text((14, _BELOW + _COUNTS + 14), key, fill=_FAINT, font=load_font(11))
    return image


def _draw_bins(draw: ImageDraw.ImageDraw, bins: Sequence[Mapping[str, Any]], most: int) -> None:
    """Bars, whiskers and counts on the enlarged image."""

    def box(*points: tuple[float, float], top: int = _TOP, height: int = _PLOT) -> tuple[float, ...]:
        """The pixels of points whose coordinates are in 0..1."""
        pixels = [(_LEFT + x * _PLOT, top + (1 - y) * height) for x, y in points]
        return tuple(_FINE * pixel for pair in pixels for pixel in pair)

    for tick in range(6):
        draw.line(box((0, tick / 5), (1, tick / 5)), fill=_LINE, width=_FINE)
    for one in bins:
        low, high = one["low"] + 0.006, one["high"] - 0.006
        draw.rectangle(box((low, one["accuracy"]), (high, 0)), fill=_RIGHT)
        draw.rectangle(box((low, one["n"] / most), (high, 0), top=_BELOW, height=_COUNTS), fill=_FAINT)
    draw.line(box((0, 0), (1, 1)), fill=_FAINT, width=_FINE)
    draw.line(box((0, 0), (1, 0), top=_BELOW, height=_COUNTS), fill=_FAINT, width=_FINE)
    for one in bins:
        middle, ends = (one["low"] + one["high"]) / 2, wilson(round(one["accuracy"] * one["n"]), one["n"])
        draw.line(box(*((middle, end) for end in ends)), fill=_WRONG, width=2 * _FINE)
        for end in ends:
            draw.line(box((middle - 0.012, end), (middle + 0.012, end)), fill=_WRONG, width=2 * _FINE)

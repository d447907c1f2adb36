"""The confusion matrix and the reliability diagram as pictures; PIL only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from tavt_kit.core.accuracy import wilson
from tavt_kit.evaluation.lettering import Font, font_of, shortened

__all__ = ["draw_confusion", "draw_reliability"]

Colour = tuple[int, int, int]

_BACK, _INK, _FAINT, _LINE = (255, 255, 255), (24, 28, 34), (96, 104, 114), (218, 222, 228)
_RIGHT, _WRONG = (11, 110, 117), (196, 74, 22)
_WANTED, _ACROSS, _LARGEST, _NAMED, _NUMBERED = 1000, 2200, 46, 10, 22
"""Pixels that a matrix measures if its cells can have names then, and at most; of a cell at most; and at least where
its class is named, or its number is written into it."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Where the cells of a matrix lie: ``size`` of them, ``cell`` pixels each, the first at (left, top)."""

    size: int
    cell: int
    left: int
    top: int

    @property
    def side(self) -> int:
        return self.size * self.cell

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        left, top = self.left + column * self.cell, self.top + row * self.cell
        return left, top, left + self.cell - 1, top + self.cell - 1


def draw_confusion(record: Mapping[str, Any]) -> Image.Image:
    """The matrix of an evaluation: rows the truth, columns what was said; a cell's colour is its share of the row.

    What is right is green, what is wrong orange, and the root of the share sets the strength, so that one mistake in
    thirty can still be seen. Names stand at the edges where there is room, else every tenth number of a class.

    Args:
        record: ``eval.json``: classes and confusion.
    """
    classes, matrix = record["classes"], record["confusion"]
    size = len(classes)
    cell = min(_LARGEST, max(_WANTED // size, min(_NAMED + 1, _ACROSS // size), 2))
    font = font_of(max(9, min(14, cell - 2)))
    named = cell >= _NAMED
    edge = _edge(classes, font) if named else 40
    grid = _Grid(size, cell, edge + 34, edge + 58)
    picture = Image.new("RGB", (max(grid.left + grid.side + 20, 420), grid.top + grid.side + 46), _BACK)
    draw = ImageDraw.Draw(picture)
    draw.text((14, 12), _title(record), fill=_INK, font=font_of(16))
    _cells(draw, grid, matrix, font)
    _ruled(draw, grid)
    _sides(picture, grid, [f"{i} {name}" for i, name in enumerate(classes)] if named else None, edge)
    _legend(draw, grid.left, grid.top + grid.side + 16)
    return picture


def _title(record: Mapping[str, Any]) -> str:
    top1 = record["top1"]
    return f"top-1 {100 * top1['value']:.1f} % of {top1['n']} images ({top1['split']})"


def _edge(names: Sequence[str], font: Font) -> int:
    """Pixels for the names at the edges."""
    widest = max(font.getlength(f"{i} {name}") for i, name in enumerate(names))
    return int(min(widest, 220)) + 10


def _cells(draw: ImageDraw.ImageDraw, grid: _Grid, matrix: Sequence[Sequence[int]], font: Font) -> None:
    for row, counts in enumerate(matrix):
        total = sum(counts)
        for column, count in enumerate(counts):
            if not count:
                continue
            strength = _strength(count / total)
            draw.rectangle(grid.box(row, column), fill=_mixed(_RIGHT if row == column else _WRONG, strength))
            if grid.cell >= _NUMBERED:
                left, top, right, bottom = grid.box(row, column)
                ink = _BACK if strength > 0.62 else _INK
                draw.text(((left + right) / 2, (top + bottom) / 2), str(count), fill=ink, font=font, anchor="mm")


def _strength(share: float) -> float:
    return float(0.12 + 0.88 * share**0.5)


def _mixed(colour: Colour, strength: float) -> Colour:
    red, green, blue = (round(255 + (channel - 255) * strength) for channel in colour)
    return red, green, blue


def _ruled(draw: ImageDraw.ImageDraw, grid: _Grid) -> None:
    """A line between any two classes, or every ten where lines would hide the cells."""
    step = 1 if grid.cell >= 16 else 10
    for place in [*range(0, grid.size, step), grid.size]:
        x, y = grid.left + place * grid.cell - 1, grid.top + place * grid.cell - 1
        draw.line((x, grid.top - 1, x, grid.top + grid.side - 1), fill=_LINE)
        draw.line((grid.left - 1, y, grid.left + grid.side - 1, y), fill=_LINE)


def _sides(picture: Image.Image, grid: _Grid, names: Sequence[str] | None, edge: int) -> None:
    """Names or numbers at the left and, turned, at the top; the words truth and said beyond them."""
    draw, words = ImageDraw.Draw(picture), font_of(13)
    font = font_of(max(9, min(14, grid.cell - 2)) if names else 11)
    for place in range(0, grid.size, 1 if names else 10):
        text = shortened(names[place], font, edge - 8) if names else str(place)
        middle = round((place + 0.5) * grid.cell)
        draw.text((grid.left - 6, grid.top + middle), text, fill=_INK, font=font, anchor="rm")
        high = max(grid.cell, 14)
        _turned(picture, text, font, (edge, high), (grid.left + middle - high // 2, grid.top - edge - 4))
    draw.text((grid.left + grid.side / 2, grid.top - edge - 8), "said", fill=_FAINT, font=words, anchor="mb")
    _turned(picture, "truth", words, (60, 20), (8, grid.top + max(0, grid.side // 2 - 30)))


def _turned(picture: Image.Image, text: str, font: Font, size: tuple[int, int], place: tuple[int, int]) -> None:
    """Text from bottom to top, in a box that is ``size`` before it is turned, its left upper corner at ``place``."""
    box = Image.new("RGB", size, _BACK)
    ImageDraw.Draw(box).text((2, size[1] / 2), text, fill=_INK, font=font, anchor="lm")
    picture.paste(box.transpose(Image.Transpose.ROTATE_90), place)


def _legend(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    font, x = font_of(12), left
    for colour, text in ((_RIGHT, "right"), (_WRONG, "wrong")):
        for i, share in enumerate((0.05, 0.25, 1.0)):
            draw.rectangle((x + 16 * i, top, x + 16 * i + 15, top + 13), fill=_mixed(colour, _strength(share)))
        draw.text((x + 54, top + 7), text, fill=_FAINT, font=font, anchor="lm")
        x += 100
    draw.text((x, top + 7), "5, 25 and 100 % of a row", fill=_FAINT, font=font, anchor="lm")


_PLOT, _COUNTS, _FINE = 360, 80, 3
"""Pixels of the diagram's sides and of the counts below it, and how much larger it is drawn before it is shrunk."""


def draw_reliability(record: Mapping[str, Any]) -> Image.Image:
    """The reliability diagram of an evaluation: accuracy over confidence in bins, and how many images each bin has.

    A model that means its probabilities has its bars end on the diagonal. Whiskers are 95 % intervals (Wilson).

    Args:
        record: ``eval.json``: calibration.
    """
    bins = [one for one in record["calibration"]["bins"] if one["n"]]
    left, top, below = 64, 48, 56
    wide, high = left + _PLOT + 24, top + _PLOT + below + _COUNTS + 44
    fine = Image.new("RGB", (wide * _FINE, high * _FINE), _BACK)
    _bars(_Scaled(ImageDraw.Draw(fine), left, top), bins)
    _counts(_Scaled(ImageDraw.Draw(fine), left, top + _PLOT + below), bins)
    picture = fine.resize((wide, high), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    error = f"calibration error {100 * record['calibration']['error']:.1f} %"
    draw.text(
        (14, 14), f"{error}; {record['top1']['n']} images ({record['top1']['split']})", fill=_INK, font=font_of(16)
    )
    _axes(picture, left, top, below, max((one["n"] for one in bins), default=0))
    return picture


@dataclass(frozen=True, slots=True)
class _Scaled:
    """A diagram whose lower edge runs from 0 to 1 over ``_PLOT`` pixels from ``left``, its upper edge at ``top``."""

    draw: ImageDraw.ImageDraw
    left: int
    top: int

    def at(self, x: float, y: float, height: int = _PLOT) -> tuple[float, float]:
        """Of a point with both coordinates in 0..1, its place on the enlarged picture."""
        return (self.left + x * _PLOT) * _FINE, (self.top + (1 - y) * height) * _FINE


def _bars(plot: _Scaled, bins: Sequence[Mapping[str, Any]]) -> None:
    for tick in range(6):
        plot.draw.line((*plot.at(0, tick / 5), *plot.at(1, tick / 5)), fill=_LINE, width=_FINE)
    for one in bins:
        accuracy = one["accuracy"]
        plot.draw.rectangle((*plot.at(one["low"] + 0.006, accuracy), *plot.at(one["high"] - 0.006, 0)), fill=_RIGHT)
    plot.draw.line((*plot.at(0, 0), *plot.at(1, 1)), fill=_FAINT, width=_FINE)
    for one in bins:
        middle = (one["low"] + one["high"]) / 2
        low, high = wilson(round(one["accuracy"] * one["n"]), one["n"])
        plot.draw.line((*plot.at(middle, low), *plot.at(middle, high)), fill=_WRONG, width=2 * _FINE)
        for end in (low, high):
            plot.draw.line((*plot.at(middle - 0.012, end), *plot.at(middle + 0.012, end)), fill=_WRONG, width=2 * _FINE)


def _counts(plot: _Scaled, bins: Sequence[Mapping[str, Any]]) -> None:
    most = max((one["n"] for one in bins), default=1)
    for one in bins:
        box = (*plot.at(one["low"] + 0.006, one["n"] / most, _COUNTS), *plot.at(one["high"] - 0.006, 0, _COUNTS))
        plot.draw.rectangle(box, fill=_FAINT)
    plot.draw.line((*plot.at(0, 0, _COUNTS), *plot.at(1, 0, _COUNTS)), fill=_FAINT, width=_FINE)


def _axes(picture: Image.Image, left: int, top: int, below: int, most: int) -> None:
    draw, font = ImageDraw.Draw(picture), font_of(12)
    bottom = top + _PLOT
    for tick in range(6):
        share = tick / 5
        draw.text((left - 8, bottom - share * _PLOT), f"{100 * share:.0f} %", fill=_FAINT, font=font, anchor="rm")
        draw.text((left + share * _PLOT, bottom + 6), f"{100 * share:.0f} %", fill=_FAINT, font=font, anchor="ma")
    draw.text((left + _PLOT / 2, bottom + 24), "confidence", fill=_INK, font=font, anchor="ma")
    _turned(picture, "accuracy", font, (80, 18), (4, top + _PLOT // 2 - 40))
    ends = bottom + below + _COUNTS
    draw.text((left - 8, bottom + below), str(most), fill=_FAINT, font=font, anchor="rm")
    draw.text((left - 8, ends), "0", fill=_FAINT, font=font, anchor="rm")
    _turned(picture, "images", font, (_COUNTS, 18), (4, bottom + below))
    key = "bars: accuracy; whiskers: 95 % intervals; line: confidence = accuracy"
    draw.text((14, ends + 14), key, fill=_FAINT, font=font_of(11))

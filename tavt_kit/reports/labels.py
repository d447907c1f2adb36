"""Placing names beside marks so that they cover neither marks nor one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Box", "Spot", "place_labels"]

_CHAR, _LINE = 6.9, 15.0
"""Pixels of an average character and of a line at 13 px."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0

    def holds(self, other: Box) -> bool:
        """Whether ``other`` lies within."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a text's baseline begins, centres or ends."""

    x: float
    y: float
    anchor: Literal["start", "middle", "end"]


def place_labels(
    wanted: Sequence[tuple[str, float, float, float]],
    marks: Sequence[tuple[float, float]],
    inside: Box,
    covered: Sequence[Box] = (),
) -> list[Spot | None]:
    """A spot for each text, in the given order of importance; ``None`` where every spot is taken.

    Args:
        wanted: Text, x and y of its mark, distance to keep from it.
        marks: All marks, which no text may cover.
        inside: The chart's area.
        covered: What else no text may cover.

    Example:
        >>> place_labels([("a", 50.0, 50.0, 10.0)], [(50.0, 50.0)], Box(0, 0, 100, 100))[0].anchor
        'start'
    """
    taken = [*covered, *(Box(x - 6, y - 6, x + 6, y + 6) for x, y in marks)]
    spots: list[Spot | None] = []
    for text, x, y, gap in wanted:
        found = None
        for spot in _choices(x, y, gap):
            box = _box(text, spot)
            if inside.holds(box) and not any(box.overlap(other) > 1.0 for other in taken):
                found = spot
                taken.append(box)
                break
        spots.append(found)
    return spots


def _choices(x: float, y: float, gap: float) -> list[Spot]:
    return [
        Spot(x + gap, y + 4, "start"),
        Spot(x - gap, y + 4, "end"),
        Spot(x, y - gap - 3, "middle"),
        Spot(x, y + gap + 11, "middle"),
        Spot(x + gap, y - gap, "start"),
        Spot(x + gap, y + gap + 8, "start"),
        Spot(x - gap, y - gap, "end"),
        Spot(x - gap, y + gap + 8, "end"),
    ]


def _box(text: str, spot: Spot) -> Box:
    width = _CHAR * len(text)
    left = {"start": spot.x, "middle": spot.x - width / 2, "end": spot.x - width}[spot.anchor]
    return Box(left, spot.y - _LINE + 3, left + width, spot.y + 3)

"""Shapes of schedules that keep most tokens early and let them leave late."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from tavt_kit.errors import ScheduleError

LEAST_PATCHES = 16
"""Patches that a curve keeps to the end: below about 16 accuracy falls fast (docs/merging.md)."""

PUBLISHED: dict[str, tuple[float, ...]] = {
    "1.5": (1.00, 1.00, 0.97, 0.90, 0.80, 0.74, 0.64, 0.56, 0.48, 0.25, 0.18, 0.02),
    "2": (1.00, 0.90, 0.82, 0.72, 0.58, 0.49, 0.40, 0.30, 0.24, 0.11, 0.07, 0.02),
    "2s": (1.00, 0.91, 0.79, 0.64, 0.55, 0.50, 0.41, 0.34, 0.26, 0.19, 0.16, 0.02),
}
"""Shares kept after each of 12 layers that DiffRate (Chen et al., ICCV 2023) learned, by how many times fewer
multiply-adds: DeiT-B at 1.5 and 2, DeiT-S at 2 (``2s``). From the authors' README."""


_CURVE = re.compile(r"(\d{1,9}):(\d{1,9}):(\d+\.?\d*|\.\d+)(?::(\d+\.?\d*|\.\d+))?")


@dataclass(frozen=True, slots=True)
class Curve:
    """The share of patches kept: all before ``start``, then ``1 - (1 - end) * x ** power``, x from 0 to 1 at ``stop``.

    Args:
        start: First layer after which patches leave, counted from 0.
        stop: Number of layers after which the end is reached, above ``start``.
        end: Share kept from there on, above 0 and at most 1.
        power: 1 for a straight line; above 1 patches leave later, below 1 earlier.

    Raises:
        ScheduleError: A value out of its range.

    Example:
        >>> [round(share, 2) for share in Curve(1, 4, 0.1, 2.0).shares(5)]
        [1.0, 0.9, 0.6, 0.1, 0.1]
    """

    start: int
    stop: int
    end: float
    power: float = 1.0

    def __post_init__(self) -> None:
        good = 0 <= self.start < self.stop and 0.0 < self.end <= 1.0 and 0.0 < self.power < math.inf
        if not good:
            raise ScheduleError(
                "a curve starts at layer 0 or later, stops behind its start, ends at a share above 0 and at most 1 and "
                f"has a power above 0, got curve:{self.start}:{self.stop}:{self.end:g}:{self.power:g}"
            )

    @classmethod
    def parse(cls, text: str) -> Curve:
        """Read ``3:9:0.2`` or ``3:9:0.2:1.5``: start, stop, end, power.

        Raises:
            ScheduleError: Another form, or a value out of its range.
        """
        match = _CURVE.fullmatch(text.strip())
        if match is None:
            raise ScheduleError(
                f"a curve is 'curve:START:STOP:END' or 'curve:START:STOP:END:POWER', got 'curve:{text}'"
            )
        return cls(int(match[1]), int(match[2]), float(match[3]), float(match[4] or 1.0))

    @classmethod
    def drawn(cls, layers: int, patches: int, whole: Callable[[int, int], int], unit: Callable[[], float]) -> Curve:
        """A random curve that keeps 16 patches or more.

        Its start is uniform in the first half of the layers, its stop behind that, its end between 16 patches and all,
        uniform in the logarithm, its power likewise in 0.7 to 2.8.

        Args:
            layers: Layers of the model.
            patches: Patches of an image.
            whole: Draws a whole number between two, both included.
            unit: Draws a number between 0 and 1.
        """
        start = whole(0, layers // 2)
        stop = whole(start + 1, layers)
        least = min(1.0, LEAST_PATCHES / patches)
        return cls(start, stop, least ** unit(), 0.7 * 4.0 ** unit())

    def shares(self, layers: int) -> tuple[float, ...]:
        """The share of patches kept after each of so many layers."""
        length = self.stop - self.start
        depths = [min(max(0, layer + 1 - self.start) / length, 1.0) for layer in range(layers)]
        return tuple(1 - (1 - self.end) * depth**self.power for depth in depths)


def published_shares(name: str, layers: int) -> tuple[float, ...]:
    """A learned curve of ``PUBLISHED``, at so many layers: what is between two layers is interpolated.

    Raises:
        ScheduleError: No curve has this name.
    """
    if name not in PUBLISHED:
        known = ", ".join(f"'diffrate:{one}'" for one in PUBLISHED)
        raise ScheduleError(f"published curves are {known}, got 'diffrate:{name}'")
    known_shares = (1.0, *PUBLISHED[name])
    scale = len(PUBLISHED[name]) / layers
    shares = []
    for layer in range(layers):
        depth = (layer + 1) * scale
        below = min(int(depth), len(known_shares) - 2)
        before, after = known_shares[below], known_shares[below + 1]
        shares.append(before + (after - before) * (depth - below))
    return tuple(shares)


def shares_to_counts(
    shares: tuple[float, ...], tokens: int, prefix: int, least: int = LEAST_PATCHES
) -> tuple[int, ...]:
    """The count after each layer, prefix included: shares of the patches, rounded, never growing.

    Args:
        shares: Share of the patches kept after each layer.
        tokens: Tokens of an image, prefix included.
        prefix: Tokens that always stay.
        least: Patches that stay to the end; all of them where an image has no more.

    Example:
        >>> shares_to_counts((1.0, 0.5, 0.1), tokens=65, prefix=1)
        (65, 33, 17)
    """
    patches, counts = tokens - prefix, list[int]()
    for share in shares:
        kept = max(round(patches * share), min(least, patches))
        counts.append(prefix + min(kept, counts[-1] - prefix if counts else patches))
    return tuple(counts)

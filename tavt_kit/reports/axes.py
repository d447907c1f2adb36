"""Axes of a chart: a scale from values to pixels, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Scale", "padded", "round_ticks"]


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map of ``low..high`` to ``start..end`` pixels; ``start`` may be the greater (a y axis).

    Example:
        >>> Scale(0.0, 10.0, 100.0, 200.0).at(5.0)
        150.0
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of ``value``; beyond the ends it is held there."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies on the axis."""
        return self.low <= value <= self.high


def round_ticks(low: float, high: float, wanted: int = 6) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten within ``low..high``, about ``wanted`` of them.

    Example:
        >>> round_ticks(0.0, 9.0)
        (0.0, 2.0, 4.0, 6.0, 8.0)
    """
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power, 2 * power, 5 * power, 10 * power), key=lambda step: abs(math.log(step / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # round() takes the noise of the multiplication off: 0.30000000000000004.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return tuple(round(step * i, digits) for i in range(first, last + 1))


def padded(values: Iterable[float], *, share: float = 0.06, floor: float = -math.inf) -> tuple[float, float]:
    """The range of ``values`` with a margin on both sides, never below ``floor`` and never empty.

    Example:
        >>> padded([2.0, 4.0], share=0.5)
        (1.0, 5.0)
    """
    found = sorted(values)
    low, high = found[0], found[-1]
    margin = (high - low) * share or abs(high) * 0.1 or 1.0
    return max(floor, low - margin), high + margin

"""TokenSchedule: how many tokens stay after each layer (TAVT's "length configuration")."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from tavt_kit.errors import ScheduleError

if TYPE_CHECKING:
    from tavt_kit.core.layout import TokenLayout


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
        """Read ``3:9:0.2`` or ``3:9:0.2:1.5``: start, stop, end, power."""
        match = _CURVE.fullmatch(text.strip())
        if match is None:
            raise ScheduleError(f"a curve is 'curve:START:STOP:END[:POWER]', got 'curve:{text}'")
        return cls(int(match[1]), int(match[2]), float(match[3]), float(match[4] or 1.0))

    @classmethod
    def drawn(cls, layers: int, patches: int, whole: Callable[[int, int], int], unit: Callable[[], float]) -> Curve:
        """A random curve that keeps 16 patches or more.

        Its start is uniform in the first half of the layers, its stop behind that, its end between 16 patches and all,
        uniform in the logarithm, its power likewise in 0.7 to 2.8. ``whole`` draws a whole number between two, both
        included, ``unit`` a number between 0 and 1.
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
    """A learned curve of ``PUBLISHED``, at so many layers: what is between two layers is interpolated."""
    if name not in PUBLISHED:
        names = ", ".join(f"'diffrate:{known}'" for known in PUBLISHED)
        raise ScheduleError(f"published curves are {names}, got 'diffrate:{name}'")
    learned = (1.0, *PUBLISHED[name])
    scale = len(PUBLISHED[name]) / layers
    shares = []
    for layer in range(layers):
        depth = (layer + 1) * scale
        below = min(int(depth), len(learned) - 2)
        before, after = learned[below], learned[below + 1]
        shares.append(before + (after - before) * (depth - below))
    return tuple(shares)


def shares_to_counts(shares: tuple[float, ...], tokens: int, prefix: int) -> tuple[int, ...]:
    """The count after each layer, prefix included: shares of the patches, rounded, never growing.

    At least 16 patches stay to the end; all of them where an image has no more.
    """
    patches, counts = tokens - prefix, list[int]()
    for share in shares:
        kept = max(round(patches * share), min(LEAST_PATCHES, patches))
        counts.append(prefix + min(kept, counts[-1] - prefix if counts else patches))
    return tuple(counts)


_RUN = re.compile(r"(\d+)(?:x(\d+))?")
_FORMS = "'dense', 'taper:0.2', 'stages:0.5', 'curve:3:9:0.2', 'diffrate:2' or counts such as '197x4,150x4,90x4'"
_DIGITS, _MOST_LAYERS = 9, 10_000
# Depths of the drops of a stage schedule: the 4th, 7th and 10th of 12 layers (EViT and most after it).
_STAGES = (1 / 3, 7 / 12, 10 / 12)


@dataclass(frozen=True, slots=True)
class TokenSchedule:
    """Tokens kept after each layer, prefix tokens (class, distillation, registers) included.

    Args:
        counts: One count per layer; never growing, never below 2 (a prefix token and a patch, or two patches).
        executed: The layers that run, in ascending order (TAVT's layer dropout); ``None`` means all. A layer
            that does not run is the identity and must repeat the count before it.

    Raises:
        ScheduleError: A count grows, is below 2, or changes at a layer that does not run.

    Example:
        >>> TokenSchedule((197, 197, 150, 90)).layers
        4
    """

    counts: tuple[int, ...]
    executed: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", tuple(_whole(count) for count in self.counts))
        if not self.counts:
            raise ScheduleError("a schedule needs at least one layer, but no count was given")
        for layer, count in enumerate(self.counts):
            if count < 2:
                raise ScheduleError(f"layer {layer} keeps {count} tokens, but at least 2 must stay: {self}")
            if layer and count > self.counts[layer - 1]:
                reach = self.counts[layer - 1]
                raise ScheduleError(f"layer {layer} keeps {count} tokens, but only {reach} reach it: {self}")
        if self.executed is not None:
            object.__setattr__(self, "executed", tuple(_whole(layer) for layer in self.executed))
            if list(self.executed) != sorted(set(self.executed) & set(range(self.layers))):
                raise ScheduleError(
                    f"executed layers must be different, ascending and within 0..{self.layers - 1}, got {self.executed}"
                )
            for layer in range(1, self.layers):
                if layer not in self.executed and self.counts[layer] != self.counts[layer - 1]:
                    raise ScheduleError(
                        f"layer {layer} does not run, so it must repeat the {self.counts[layer - 1]} tokens before it, "
                        f"but keeps {self.counts[layer]}"
                    )

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.counts)

    @property
    def running(self) -> Sequence[int]:
        """The layers that are executed, ascending."""
        return range(self.layers) if self.executed is None else self.executed

    def runs(self, layer: int) -> bool:
        """Whether ``layer`` is executed."""
        return self.executed is None or layer in self.executed

    @classmethod
    def dense(cls, layout: TokenLayout) -> TokenSchedule:
        """Every token in every layer."""
        return cls((layout.tokens,) * layout.layers)

    @classmethod
    def taper(cls, layout: TokenLayout, ratio: float, executed: tuple[int, ...] | None = None) -> TokenSchedule:
        """Drop the share ``ratio`` in each layer that runs: ``ceil(n * (1 - ratio))``, at least ``layout.least``.

        Source: TAVT / Length-Adaptive Transformer, the "smallest" sub-network.
        """
        return cls(_dropped(layout, ratio, range(layout.layers) if executed is None else executed), executed)

    @classmethod
    def stages(cls, layout: TokenLayout, ratio: float) -> TokenSchedule:
        """Drop the share ``ratio``, as ``taper`` does, in the layers of ``stage_layers`` alone.

        Source: EViT (Liang et al., ICLR 2022), which drops there.
        """
        return cls(_dropped(layout, ratio, stage_layers(layout.layers)))

    @classmethod
    def parse(cls, text: str, layout: TokenLayout) -> TokenSchedule:
        """Read ``dense``, ``taper:0.2``, ``stages:0.5`` or ``197x4,150x4,90x4`` for a model of this layout.

        ``curve:START:STOP:END:POWER`` is a ``Curve`` (a power of 1 may be left out), ``diffrate:2`` a published one.

        Raises:
            ScheduleError: The text has another form, or the schedule does not fit the model.

        Example:
            >>> from tavt_kit.core.layout import TokenLayout
            >>> TokenSchedule.parse("5x2,3", TokenLayout(tokens=5, layers=3)).counts
            (5, 5, 3)
        """
        text = text.strip()
        if text == "dense":
            return cls.dense(layout)
        family, colon, share = text.partition(":")
        if colon and family in ("taper", "stages"):
            try:
                ratio = float(share)
            except ValueError:
                raise ScheduleError(f"{family} needs a ratio such as '{family}:0.2', got {text!r}") from None
            return cls.taper(layout, ratio) if family == "taper" else cls.stages(layout, ratio)
        if colon and family in ("curve", "diffrate"):
            layers = layout.layers
            shares = Curve.parse(share).shares(layers) if family == "curve" else published_shares(share, layers)
            return cls(shares_to_counts(shares, layout.tokens, layout.prefix))
        counts = list[int]()
        for part in text.split(","):
            match = _RUN.fullmatch(part.strip())
            if match is None:
                raise ScheduleError(f"a schedule is {_FORMS}, got {text!r}")
            repeats = match[2] or "1"
            if max(len(match[1]), len(repeats)) > _DIGITS or len(counts) + int(repeats) > _MOST_LAYERS:
                raise ScheduleError(f"the model has {layout.layers} layers, {layout.tokens} tokens, got {text[:80]!r}")
            counts += [int(match[1])] * int(repeats)
        schedule = cls(tuple(counts))
        schedule.check(layout)
        return schedule

    def check(self, layout: TokenLayout) -> None:
        """Raise ScheduleError unless the schedule fits a model of this layout."""
        if self.layers != layout.layers:
            raise ScheduleError(f"the model has {layout.layers} layers, but the schedule has {self.layers}: {self}")
        if self.counts[0] > layout.tokens:
            raise ScheduleError(f"the model has {layout.tokens} tokens, but layer 0 keeps {self.counts[0]}: {self}")
        least = layout.prefix + 1
        if self.counts[-1] < least:
            low = next(i for i, count in enumerate(self.counts) if count < least)
            raise ScheduleError(
                f"layer {low} keeps {self.counts[low]} tokens, but the {layout.prefix} prefix tokens and one patch "
                f"must stay (at least {least}): {self}"
            )

    def is_dense(self, tokens: int) -> bool:
        """Whether nothing is dropped and no layer is skipped, for a model of ``tokens`` tokens."""
        return self.executed is None and self.counts[-1] == tokens

    def canonical(self) -> TokenSchedule:
        """The same network for a token-pooled head, which the last layer's drop cannot change: its count repeats."""
        if self.layers == 1:
            return self
        return TokenSchedule((*self.counts[:-1], self.counts[-2]), self.executed)

    def __str__(self) -> str:
        return counts_text(self.counts)


def stage_layers(layers: int) -> tuple[int, ...]:
    """The layers in which a stage schedule drops, counted from 0; fewer than three in very shallow models."""
    return tuple(sorted({max(0, round(layers * depth) - 1) for depth in _STAGES}))


def _dropped(layout: TokenLayout, ratio: float, dropping: Collection[int]) -> tuple[int, ...]:
    if not 0.0 <= ratio < 1.0:
        raise ScheduleError(f"the ratio of a taper or of stages must be at least 0 and below 1, got {ratio}")
    counts, kept = [], layout.tokens
    for layer in range(layout.layers):
        kept = max(math.ceil(kept * (1 - ratio)), layout.least) if layer in dropping else kept
        counts.append(kept)
    return tuple(counts)


def counts_text(counts: Sequence[int]) -> str:
    """``(5, 5, 3)`` as ``5x2,3``."""
    runs = ((count, len(list(group))) for count, group in groupby(counts))
    return ",".join(f"{count}x{length}" if length > 1 else str(count) for count, length in runs)


def _whole(value: object) -> int:
    """An int, or ScheduleError; numpy and torch integers are welcome, bools and fractions are not."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ScheduleError(f"token counts and layers must be whole numbers, got {value!r}")
    return int(value.__index__())

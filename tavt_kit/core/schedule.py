"""TokenSchedule: how many tokens stay after each layer (TAVT's "length configuration")."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from tavt_kit.core.curves import Curve, published_shares, shares_to_counts
from tavt_kit.errors import ScheduleError

if TYPE_CHECKING:
    from tavt_kit.core.layout import TokenLayout

_RUN = re.compile(r"(\d+)(?:x(\d+))?")
_FORMS = "'dense', 'taper:0.2', 'stages:0.5', 'curve:3:9:0.2', 'diffrate:2' or counts such as '197x4,150x4,90x4'"
_DIGITS, _MOST_LAYERS = 9, 10_000
_STAGES = (1 / 3, 7 / 12, 10 / 12)
"""Depths of the drops of a stage schedule: the 4th, 7th and 10th of 12 layers (EViT and most after it)."""


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
        >>> TokenSchedule((90, 150))
        Traceback (most recent call last):
            ...
        tavt_kit.errors.ScheduleError: layer 1 keeps 150 tokens, but only 90 reach it: 90,150
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
            self._check_executed(self.executed)

    def _check_executed(self, executed: tuple[int, ...]) -> None:
        if list(executed) != sorted(set(executed)) or any(not 0 <= i < self.layers for i in executed):
            raise ScheduleError(
                f"executed layers must be different, ascending and within 0..{self.layers - 1}, got {executed}"
            )
        for layer in range(1, self.layers):
            if layer not in executed and self.counts[layer] != self.counts[layer - 1]:
                raise ScheduleError(
                    f"layer {layer} does not run, so it must repeat the {self.counts[layer - 1]} tokens before it, "
                    f"but keeps {self.counts[layer]}"
                )

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.counts)

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

        Example:
            >>> from tavt_kit.core.layout import TokenLayout
            >>> TokenSchedule.taper(TokenLayout(tokens=785, layers=12), ratio=0.2).counts
            (628, 503, 403, 323, 259, 208, 167, 134, 108, 87, 70, 56)
        """
        return cls(_dropped(layout, ratio, range(layout.layers) if executed is None else executed), executed)

    @classmethod
    def stages(cls, layout: TokenLayout, ratio: float) -> TokenSchedule:
        """Drop the share ``ratio``, as ``taper`` does, in the layers of ``stage_layers`` alone.

        Source: EViT (Liang et al., ICLR 2022), which drops there.

        Example:
            >>> from tavt_kit.core.layout import TokenLayout
            >>> str(TokenSchedule.stages(TokenLayout(tokens=197, layers=12), ratio=0.5))
            '197x3,99x3,50x3,25x3'
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
        counts: list[int] = []
        for part in text.split(","):
            match = _RUN.fullmatch(part.strip())
            if match is None:
                raise ScheduleError(f"a schedule is {_FORMS}, got {text!r}")
            repeats = match[2] or "1"
            if max(len(match[1]), len(repeats)) > _DIGITS or len(counts) + int(repeats) > _MOST_LAYERS:
                raise ScheduleError(
                    f"the model has {layout.layers} layers and {layout.tokens} tokens, got {text[:80]!r}"
                )
            counts += [int(match[1])] * int(repeats)
        schedule = cls(tuple(counts))
        schedule.check(layout)
        return schedule

    def check(self, layout: TokenLayout) -> None:
        """Raise ScheduleError unless the schedule fits a model of this layout."""
        if self.layers != layout.layers:
            raise ScheduleError(f"the model has {layout.layers} layers, but the schedule has {self.layers}: {self}")
        if self.counts[0] > layout.tokens:
            raise ScheduleError(
                f"the model has {layout.tokens} tokens, but layer 0 would keep {self.counts[0]}: {self}"
            )
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
        """The counts, runs shortened: ``197x4,150x4,90x4``."""
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

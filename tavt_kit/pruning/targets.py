"""Targets: how much of a model is to be left, and how many units that are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tavt_kit.errors import BudgetError
from tavt_kit.pruning.coupled import Coupled

SHARES = ("mlp", "heads", "width")


@dataclass(frozen=True, slots=True)
class Targets:
    """What is left of a model.

    Args:
        mlp: Share of the hidden channels of each feed-forward network; ``None`` leaves them all.
        heads: Share of the heads of each attention.
        width: Share of the embedding channels.
        depth: How many layers.
        round_to: Channels are left in multiples of this (a head counts with all of its channels).

    Raises:
        BudgetError: A share that is not above 0 and at most 1, fewer than one layer, or a multiple below 1.

    Example:
        >>> Targets(mlp=0.5, depth=10).round_to
        8
    """

    mlp: float | None = None
    heads: float | None = None
    width: float | None = None
    depth: int | None = None
    round_to: int = 8

    def __post_init__(self) -> None:
        for name in SHARES:
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise BudgetError(
                    f"`{name}` is the share that is left, above 0 and at most 1, got {share:g}; 0.5 keeps a half"
                )
        if self.depth is not None and self.depth < 1:
            raise BudgetError(f"`depth` is the number of layers that are left, at least 1, got {self.depth}")
        if self.round_to < 1:
            raise BudgetError(f"`round_to` is a whole number of channels above 0, got {self.round_to}")

    def share(self, kind: str) -> float | None:
        """The share of ``mlp``, ``heads`` or ``width``."""
        return getattr(self, kind)  # type: ignore[no-any-return]

    @property
    def asked(self) -> bool:
        """Whether anything is to be pruned at all."""
        return any(x is not None for x in (self.mlp, self.heads, self.width, self.depth))


def left_of(group: Coupled, share: float, round_to: int) -> int:
    """Units that are left of a group: the nearest number whose channels are a multiple, at least one such step.

    Example:
        >>> left_of(Coupled("mlp", "", 1536, 1, ()), 0.7, 8), left_of(Coupled("heads", "", 6, 64, ()), 0.4, 8)
        (1072, 2)
    """
    step = round_to // math.gcd(round_to, group.size)
    if group.units <= step:
        return group.units
    return min(group.units, max(step, math.floor(group.units * share / step + 0.5) * step))

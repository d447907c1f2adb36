"""TokenLayout: the sizes of a model that its token schedules must fit."""

from __future__ import annotations

from dataclasses import dataclass, field

from tavt_kit.core.codec import Record, recorded_as


@dataclass(frozen=True, slots=True)
class TokenLayout(Record):
    """What a schedule of a model must fit.

    Args:
        tokens: Tokens of one image before any leaves, prefix included.
        prefix: Leading tokens that never leave, such as the class token and registers.
        token_pooled: Whether the head reads prefix tokens only, so that the count after the last layer changes nothing.
    """

    tokens: int
    layers: int
    prefix: int = 1
    token_pooled: bool = field(default=True, metadata=recorded_as(skip=True))
    """Records say it in their own words."""

    @property
    def least(self) -> int:
        """Fewest tokens that a layer may keep: the prefix and one patch, and never below 2."""
        return max(2, self.prefix + 1)

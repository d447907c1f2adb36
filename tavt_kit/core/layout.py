"""TokenLayout: the sizes of a model that its token schedules must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TokenLayout"]


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """What a schedule of a model must fit.

    Args:
        tokens: Tokens of one image before any leaves, prefix included.
        layers: Number of transformer layers.
        prefix: Leading tokens that never leave, such as the class token and registers.
        token_pooled: Whether the head reads prefix tokens only, so that the count after the last layer changes nothing.

    Example:
        >>> TokenLayout(tokens=197, layers=12).least
        2
    """

    tokens: int
    layers: int
    prefix: int = 1
    token_pooled: bool = True

    @property
    def least(self) -> int:
        """Fewest tokens that a layer may keep: the prefix and one patch, and never below 2."""
        return max(2, self.prefix + 1)

    def as_record(self) -> dict[str, int]:
        """JSON-ready; ``token_pooled`` is for the record's own words."""
        return {"tokens": self.tokens, "layers": self.layers, "prefix": self.prefix}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, token_pooled: bool) -> TokenLayout:
        """From a record with the keys of ``as_record`` among others.

        Raises:
            KeyError: One of them is missing.
        """
        return cls(record["tokens"], record["layers"], record["prefix"], token_pooled)

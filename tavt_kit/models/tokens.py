"""TokenState: the tokens on their way through the layers, and where each of them came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

__all__ = ["TokenState"]

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TokenState:
    """What one half-block hands to the next; never changed in place, so a state can be kept and continued.

    Args:
        tokens: (B, n, D), prefix tokens first, patches in ascending original position.
        prefix: How many leading tokens are no patches (class, distillation, registers); may be 0.
        place: (B, n) int64, each token's position in the original sequence; ``None`` while nothing was dropped.
        last: (B, N, D), the latest whole-layer output of every original token, or ``None`` where nobody restores.
        sizes: (B, n) float32, how many original tokens each stands for; ``None`` until something was merged.
        owner: (B, N) int64, the row of the token that each original token was merged into, or ``None`` where nobody
            asks.
        along: Tensors (B, n, ...) that are gathered together with the tokens.
        notes: Anything else an adapter carries from ``embed`` to its layers; never gathered.
    """

    tokens: Tensor
    prefix: int
    place: Tensor | None = None
    last: Tensor | None = None
    sizes: Tensor | None = None
    owner: Tensor | None = None
    along: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    notes: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)

    @property
    def count(self) -> int:
        """Tokens now in the sequence, n."""
        return self.tokens.shape[1]

    def with_tokens(self, tokens: Tensor) -> TokenState:
        """The same sequence with new values."""
        return replace(self, tokens=tokens)

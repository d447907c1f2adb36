"""What a graph answers, and which rows it takes, when its choices of tokens are given other scores.

The scores of a choice over n tokens are 0 for even positions and -1 for odd ones, so that they tie in halves; swayed,
every position has its own, in the same order. Whole numbers up to 2 n, which half precision holds exactly for up to
1024 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SWAY", "ChoosingGraph", "Swayed", "first_sample", "level", "rows_wanted"]

SWAY = "fgvc_kit_sway"
"""The input that is added to a graph: 0 for tied scores, 1 for resolved ones."""


@dataclass(frozen=True, slots=True)
class Swayed:
    """A graph's answers to made-up scores.

    Args:
        tied: Logits (B, classes) under tied scores.
        resolved: The same, with the ties resolved towards the first position.
        rows: Under tied scores, for each choice the rows of the first image that were gathered by it, in the order of
            the graph; ``None`` of a choice that no gather was seen to follow.
    """

    tied: NDArray[np.float32]
    resolved: NDArray[np.float32]
    rows: tuple[tuple[int, ...] | None, ...]


class ChoosingGraph(Protocol):
    """A model file of one runtime."""

    def kept(self) -> tuple[int, ...] | None:
        """Patches kept by each choice, in the order of the graph; ``None`` where it does not say."""
        ...

    def sway(self, images: NDArray[np.float32]) -> Swayed | None:
        """Its answers to made-up scores; ``None`` where it chooses no tokens by TopK."""
        ...


def level(row: Any, odd: Any, n: Any, sway: Any, add: Any, multiply: Any, minus_one: Any) -> Any:
    """The negated scores (see the module), of positions and their remainders by two, with a runtime's own operations.

    Example:
        >>> from operator import add, mul
        >>> [[level(row, row % 2, 5, sway, add, mul, -1) for row in range(5)] for sway in (0, 1)]
        [[0, 1, 0, 1, 0], [0, 6, 2, 8, 4]]
    """
    finer = add(multiply(odd, add(n, minus_one)), row)
    return add(odd, multiply(finer, sway))


def rows_wanted(tokens: int, kept: int, prefix: int) -> tuple[int, ...]:
    """The rows that stay of ``tokens`` under tied scores when ``kept`` do: prefix, even positions, then odd ones.

    Example:
        >>> rows_wanted(7, 5, 1)
        (0, 1, 2, 3, 5)
    """
    patches = tokens - prefix
    best = [*range(0, patches, 2), *range(1, patches, 2)][: kept - prefix]
    return (*range(prefix), *(prefix + place for place in sorted(best)))


def first_sample(index: NDArray[Any], batch: int) -> tuple[int, ...]:
    """The first image's rows of a gather's index: (B, k), (B, k, 1), (B, k, D), or flat (B * k,) with offsets."""
    one = index[0] if index.ndim > 1 else index.reshape(batch, -1)[0]
    return tuple(int(row) for row in (one if one.ndim == 1 else one.reshape(len(one), -1)[:, 0]))

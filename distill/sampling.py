"""Which sub-networks a distillation step trains: token counts by ratio or bound, and layer dropout.

The rules are those of TAVT's official code (Length-Adaptive Transformer, ACL 2021, section 3.2), in the same order of
draws: with a ``numpy.random.RandomState`` the samples are the official ones, number by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from tavt_kit.errors import TrainingError
from tavt_kit.schedule import TokenSchedule

__all__ = [
    "Draws",
    "Sampler",
    "bounded_counts",
    "first_layers",
    "ratio_counts",
    "surviving_layers",
    "thinned_counts",
    "up_to_first_layers",
]

Draws = np.random.Generator | np.random.RandomState
"""Where randomness comes from; the legacy kind repeats the official samples."""


def _whole(draws: Draws, low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    if isinstance(draws, np.random.RandomState):
        return int(draws.randint(low, high + 1))
    return int(draws.integers(low, high, endpoint=True))


def _counts(
    tokens: int, layers: int, floor: int, executed: Collection[int] | None, keep: Callable[[int], int]
) -> tuple[int, ...]:
    """Count after each layer; a layer that does not run repeats the count before it and draws nothing."""
    counts, count = [], tokens
    for layer in range(layers):
        if executed is None or layer in executed:
            count = max(keep(count), floor)
        counts.append(count)
    return tuple(counts)


def ratio_counts(
    tokens: int, layers: int, ratio: float, *, floor: int = 2, executed: Collection[int] | None = None
) -> tuple[int, ...]:
    """The smallest sub-network: ``ceil(n * (1 - ratio))`` after each executed layer, never below ``floor``.

    Example:
        >>> ratio_counts(60, 5, 0.3, executed=(0, 2, 4))
        (42, 42, 30, 30, 21)
    """
    return _counts(tokens, layers, floor, executed, lambda n: math.ceil(n * (1 - ratio)))


def bounded_counts(
    tokens: int, layers: int, bound: float, draws: Draws, *, floor: int = 2, executed: Collection[int] | None = None
) -> tuple[int, ...]:
    """A random sub-network: uniform in ``ceil(n * (1 - bound)) .. n`` after each executed layer."""
    return _counts(tokens, layers, floor, executed, lambda n: _whole(draws, math.ceil(n * (1 - bound)), n))


def thinned_counts(
    tokens: int,
    layers: int,
    probability: float,
    draws: Draws,
    *,
    floor: int = 2,
    executed: Collection[int] | None = None,
) -> tuple[int, ...]:
    """A random sub-network: every token leaves each executed layer with ``probability``."""
    return _counts(tokens, layers, floor, executed, lambda n: n - int(draws.binomial(n, probability)))


def surviving_layers(layers: int, probability: float, draws: Draws) -> tuple[int, ...]:
    """Layer dropout: each layer is left out with ``probability``; all of them may be."""
    return tuple(layer for layer in range(layers) if draws.random() >= probability)


def first_layers(layers: int, dropped: int) -> tuple[int, ...]:
    """Without the last ``dropped`` layers; at least one stays."""
    return tuple(range(max(layers - dropped, 1)))


def up_to_first_layers(layers: int, most: int, draws: Draws) -> tuple[int, ...]:
    """Without the last 0 to ``most`` layers, uniformly; at least one stays."""
    return first_layers(layers, _whole(draws, 0, min(most, layers - 1)))


@dataclass(frozen=True, slots=True)
class Sampler:
    """The schedules of one sandwich step: the full network, the smallest, and some in between.

    Args:
        tokens: Of the model, prefix included.
        layers: Of the model.
        prefix: Tokens that always stay.
        bound: Largest share of tokens that a layer may drop; the smallest network drops it everywhere.
        random: Random networks per step (the official ``num_sandwich``).
        layer_dropout: Probability that a layer is left out, in every network, the full one included (as the official
            code does); ``None`` for none.

    Raises:
        TrainingError: A bound or probability outside [0, 1), or a negative number of networks.
    """

    tokens: int
    layers: int
    prefix: int = 1
    bound: float = 0.2
    random: int = 2
    layer_dropout: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.bound < 1.0:
            raise TrainingError(
                f"the bound is the largest share of tokens a layer may drop, above 0 and below 1, got {self.bound}"
            )
        if self.random < 0:
            raise TrainingError(f"there must be 0 or more random sub-networks, got {self.random}")
        if self.layer_dropout is not None and not 0.0 <= self.layer_dropout < 1.0:
            raise TrainingError(f"layer dropout must be at least 0 and below 1, got {self.layer_dropout}")

    @property
    def floor(self) -> int:
        """Fewest tokens: the prefix and a patch, and never below the official 2."""
        return max(2, self.prefix + 1)

    def draw(self, draws: Draws) -> tuple[TokenSchedule, tuple[TokenSchedule, ...]]:
        """The full network, then the smallest and the random ones; layers are drawn before counts, as officially."""
        full = TokenSchedule((self.tokens,) * self.layers, self._survivors(draws))
        return full, tuple(self._sub(draws, smallest=index == 0) for index in range(self.random + 1))

    def _sub(self, draws: Draws, *, smallest: bool) -> TokenSchedule:
        executed = self._survivors(draws)
        if smallest:
            counts = ratio_counts(self.tokens, self.layers, self.bound, floor=self.floor, executed=executed)
        else:
            counts = bounded_counts(self.tokens, self.layers, self.bound, draws, floor=self.floor, executed=executed)
        return TokenSchedule(counts, executed)

    def _survivors(self, draws: Draws) -> tuple[int, ...] | None:
        if self.layer_dropout is None:
            return None
        return surviving_layers(self.layers, self.layer_dropout, draws)

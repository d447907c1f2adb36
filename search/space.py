"""The schedules a search may propose: never growing counts on a grid of levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError

USUAL = 16
"""Patches that every layer keeps where nobody says otherwise: with fewer, networks lose more than the time is worth."""

Levels = NDArray[np.int64]
"""Genes: per free layer an index into ``Space.values``, never growing; (G,), or (S, G) for several."""


@dataclass(frozen=True, slots=True)
class Space:
    """All schedules of a model whose counts are at least ``minimum`` and multiples of ``quantum``.

    Args:
        layout: Layout of the model. Where its head reads prefix tokens only, the space holds the canonical form of
            schedules, in which the last count repeats the one before.
        minimum: The least count; ``None`` means 16 patches, or half of the model's where it has fewer than 32.
        quantum: Counts are multiples of it, or the minimum, or all tokens; fewer different schedules.

    Raises:
        ScheduleError: Fewer than 2 tokens, no layer, a quantum below 1, or a minimum outside of its range.

    Example:
        >>> from tavt_kit.core.layout import TokenLayout
        >>> space = Space(TokenLayout(tokens=5, layers=3))
        >>> space.size, space.least.counts
        (6, (3, 3, 3))
    """

    layout: TokenLayout
    minimum: int | None = None
    quantum: int = 1

    def __post_init__(self) -> None:
        low, tokens = self.layout.least, self.layout.tokens
        if tokens < low or self.genes < 1 or self.layout.prefix < 0:
            raise ScheduleError(
                f"a search needs {low} tokens or more and a layer whose count matters (the last one's does not "
                f"where the head reads the prefix only), got {tokens} tokens and {self.layout.layers} layers"
            )
        if self.quantum < 1:
            raise ScheduleError(f"counts can be multiples of 1, 2, ..., got a quantum of {self.quantum}")
        if self.minimum is not None and not low <= self.minimum <= tokens:
            raise ScheduleError(f"the least count must be within {low}..{tokens} for this model, got {self.minimum}")

    @property
    def low(self) -> int:
        """The least count that is proposed."""
        if self.minimum is not None:
            return self.minimum
        patches = self.layout.tokens - self.layout.prefix
        return max(self.layout.least, self.layout.prefix + min(USUAL, patches // 2))

    @property
    def values(self) -> Levels:
        """The counts a layer may keep, ascending."""
        return _values(self.low, self.quantum, self.layout.tokens)

    @property
    def genes(self) -> int:
        """Layers whose count is free."""
        return self.layout.layers - 1 if self.layout.token_pooled else self.layout.layers

    @property
    def extras(self) -> int:
        """Genes of another kind before the levels; see ``JointSpace``."""
        return 0

    def dressed(self, choice: Choice, number: int) -> Choice:
        """One of the first proposals with genes of another kind, of which there are none."""
        return choice

    @property
    def size(self) -> int:
        """How many schedules there are."""
        return math.comb(len(self.values) + self.genes - 1, self.genes)

    @property
    def dense(self) -> TokenSchedule:
        """Nothing dropped."""
        return TokenSchedule.dense(self.layout)

    @property
    def least(self) -> Choice:
        """As few tokens as possible in every layer."""
        return self.decode(np.zeros(self.genes, dtype=np.int64))

    @property
    def ends(self) -> tuple[Choice, ...]:
        """One of these is the cheapest of all."""
        return (self.least,)

    def holding(self, schedules: Iterable[TokenSchedule]) -> Self:
        """The same, its minimum lowered to what these schedules of the user's keep at least."""
        least = min((min(one.counts) for one in schedules), default=self.low)
        return replace(self, minimum=least) if least < self.low else self

    def decode(self, levels: Levels) -> Choice:
        """The schedule of one row of genes."""
        counts = [int(count) for count in self.values[levels]]
        if self.layout.token_pooled:
            counts.append(counts[-1])
        return TokenSchedule(tuple(counts))

    def encode(self, choice: Choice) -> Levels:
        """The genes of the schedule in this space that is nearest to the given one.

        Raises:
            ScheduleError: The schedule does not fit the model, or skips layers.
        """
        schedule = Configuration.of(choice).schedule
        schedule.check(self.layout)
        if schedule.executed is not None:
            raise ScheduleError(f"this search runs every layer, but a schedule skips some: {schedule}")
        counts = np.asarray(schedule.counts[: self.genes], dtype=np.int64)
        nearest: Levels = np.abs(self.values[None, :] - counts[:, None]).argmin(axis=1)
        return nearest

    def mend(self, levels: NDArray[Any]) -> Levels:
        """Any numbers (..., G) -> genes: rounded, within the grid, never growing."""
        whole = np.clip(np.rint(levels), 0, len(self.values) - 1).astype(np.int64)
        return np.minimum.accumulate(whole, axis=-1)

    def sample(self, rng: np.random.Generator) -> Levels:
        """Random genes: drops at some layers, to random shares; counts drawn evenly would all be tapers."""
        top = len(self.values) - 1
        shares = np.zeros(self.genes)
        drops = rng.integers(1, self.genes + 1)
        places = rng.choice(self.genes, size=drops, replace=False)
        # Together the drops leave a share drawn evenly between nothing and all.
        shares[places] = rng.dirichlet(np.ones(drops)) * math.log(rng.uniform(1 / (top + 1), 1.0))
        return self.mend(top * np.exp(np.cumsum(shares)))

    def cheaper(self, extras: Levels) -> Iterator[Levels]:
        """What stands before the levels, and ever cheaper values of it."""
        yield extras

    def vary(self, genes: Levels, rng: np.random.Generator) -> Levels:
        """A child's genes of another kind, of which there are none."""
        return genes

    def every(self) -> Iterator[Levels]:
        """The genes of every schedule, from dense to least."""
        top = len(self.values) - 1
        for drops in combinations_with_replacement(range(top + 1), self.genes):
            yield top - np.asarray(drops, dtype=np.int64)


@cache
def _values(low: int, quantum: int, tokens: int) -> Levels:
    first = math.ceil(low / quantum) * quantum
    values = np.unique([low, *range(first, tokens, quantum), tokens]).astype(np.int64)
    values.flags.writeable = False
    return values

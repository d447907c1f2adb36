"""The schedules a search may propose: never growing counts on a grid of levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations_with_replacement, product
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
    """All schedules of a model whose counts are at least ``minimum``.

    Args:
        layout: Where the model's head reads prefix tokens only, the space holds the canonical form of schedules, in
            which the last count repeats the one before.
        minimum: The least count; ``None`` means 16 patches, or half of the model's where it has fewer than 32.

    Raises:
        ScheduleError: Fewer than 2 tokens, no layer, or a minimum outside of its range.

    Example:
        >>> from tavt_kit.core.layout import TokenLayout
        >>> space = Space(TokenLayout(tokens=5, layers=3))
        >>> space.size, space.least.counts
        (6, (3, 3, 3))
    """

    layout: TokenLayout
    minimum: int | None = None

    def __post_init__(self) -> None:
        low, tokens = self.layout.least, self.layout.tokens
        if tokens < low or self.genes < 1 or self.layout.prefix < 0:
            raise ScheduleError(
                f"a search needs {low} tokens or more and a layer whose count matters (the last one's does not "
                f"where the head reads the prefix only), got {tokens} tokens and {self.layout.layers} layers"
            )
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
        return _values(self.low, self.layout.tokens)

    @property
    def genes(self) -> int:
        """Layers whose count is free."""
        return self.layout.layers - 1 if self.layout.token_pooled else self.layout.layers

    @property
    def choices(self) -> tuple[int, ...]:
        """How many values each gene of another kind has, before the levels; see ``JointSpace``."""
        return ()

    @property
    def extras(self) -> int:
        """Genes before the levels."""
        return len(self.choices)

    def dressed(self, choice: Choice, number: int) -> Choice:
        """One of the first proposals with genes of another kind."""
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
        least = min((min(schedule.counts) for schedule in schedules), default=self.low)
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
        layers = rng.choice(self.genes, size=drops, replace=False)
        # Together the drops leave a share drawn evenly between nothing and all.
        shares[layers] = rng.dirichlet(np.ones(drops)) * math.log(rng.uniform(1 / (top + 1), 1.0))
        return self.mend(top * np.exp(np.cumsum(shares)))

    def cheaper(self, extras: Levels) -> Iterator[Levels]:
        """What stands before the levels, and ever cheaper values of it."""
        yield extras

    def vary(self, genes: Levels, rng: np.random.Generator) -> Levels:
        """The first genes of a child: each changes once in four times."""
        changed = genes.copy()
        for index, choices in enumerate(self.choices):
            if rng.random() < 0.25:
                changed[index] = rng.integers(choices)
        return changed

    def every(self) -> Iterator[Levels]:
        """The genes of every schedule, from dense to least."""
        top = len(self.values) - 1
        for drops in combinations_with_replacement(range(top + 1), self.genes):
            yield top - np.asarray(drops, dtype=np.int64)


@cache
def _values(low: int, tokens: int) -> Levels:
    values = np.arange(low, tokens + 1, dtype=np.int64)
    values.flags.writeable = False
    return values


GENES = ("image_size", "layers", "score", "precision", "reduction")
"""In their order; of each the place among its values, 0 being the model's own."""

_SIZE, _LAYERS, _SCORE, _PRECISION, _REDUCTION = range(len(GENES))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSpace(Space):
    """A ``Space`` with five genes before the levels of the layers; of rows for one schedule ``mend`` keeps one.

    A level is a share of the patches: the count that it stands for at the model's own size, scaled to the patches of
    the size at hand. So a change of the image size keeps the shape of a schedule.

    Args:
        sizes: Image sizes (H, W) in pixels, the model's own first; ``at_size`` has the tokens of each.
        spared: Layers that may be left out, the first to go first.
        scores: Scores of the tokens, the model's own first; so are the ``reductions``.
        precisions: Precisions, the target's own first, then with ever fewer bits.

    Example:
        >>> from tavt_kit.core.layout import TokenLayout
        >>> sizes = {"sizes": ((32, 32), (24, 24)), "at_size": (17, 10)}
        >>> space = JointSpace(TokenLayout(17, 4), **sizes, spared=(2,), scores=("column",))
        >>> str(space.decode(np.array([1, 1, 0, 0, 0, 8, 4, 4])))
        '10,8x3 at 24 px, without layer 2'
    """

    sizes: tuple[tuple[int, int], ...]
    at_size: tuple[int, ...]
    spared: tuple[int, ...] = ()
    scores: tuple[str, ...]
    precisions: tuple[str, ...] = ("f32",)
    reductions: tuple[str, ...] = ("drop",)

    @property
    def plain(self) -> Space:
        """The same model's schedules without the other genes."""
        return Space(self.layout, self.minimum)

    @property
    def genes(self) -> int:
        """Of a whole row."""
        return self.extras + self.plain.genes

    @property
    def choices(self) -> tuple[int, ...]:
        """How many values each of the first genes has."""
        return len(self.sizes), len(self.spared) + 1, len(self.scores), len(self.precisions), len(self.reductions)

    @property
    def size(self) -> int:
        """At most so many schedules: some rows are one schedule."""
        return int(np.prod(self.choices)) * self.plain.size

    @property
    def ends(self) -> tuple[Choice, ...]:
        """The fewest tokens of the smallest image in the fewest layers, by precision: int8 is not always faster."""
        sizes, layers, _, precisions, _ = self.choices
        levels = np.zeros(self.plain.genes, dtype=np.int64)
        rows = [np.append([sizes - 1, layers - 1, 0, precision, 0], levels) for precision in range(precisions)]
        return tuple(self.decode(self.mend(row)) for row in rows)

    def cheaper(self, extras: Levels) -> Iterator[Levels]:
        """Other precisions first, then smaller images, then fewer layers; the others cost next to nothing."""
        sizes, layers, _, precisions, _ = self.choices
        size, fewer, score, own, reduction = (int(gene) for gene in extras)
        sorts = [own, *(precision for precision in range(precisions) if precision != own)]
        steps = [(index, fewer) for index in range(size, sizes)]
        steps += [(sizes - 1, gone) for gone in range(fewer + 1, layers)]
        for (index, gone), precision in product(steps, sorts):
            yield np.array([index, gone, score, precision, reduction], dtype=np.int64)

    @property
    def baselines(self) -> dict[Choice, str]:
        """The dense model in each precision, at each smaller size in each of them, and with fewer layers in the
        target's own precision and in the fewest bits; their kinds.
        """
        kinds: dict[Choice, str] = {}
        for kind, genes in BASELINES.items():
            for changed in genes(self):
                kinds.setdefault(self.given(self.dense, **changed), kind)
        return kinds

    def dressed(self, choice: Choice, number: int) -> Choice:
        """One of the first proposals: in the fewest bits, the reductions, sizes and scores in turns."""
        sizes, _, scores, precisions, reductions = self.choices
        turn, reduction = divmod(number, reductions)
        turn, size = divmod(turn, sizes)
        genes = {"precision": precisions - 1, "reduction": reduction, "image_size": size, "score": turn % scores}
        return self.given(choice, **genes)

    def decode(self, levels: Levels) -> Choice:
        """The configuration of one row: its schedule alone where every gene is the model's own."""
        index, fewer, score, precision, reduction = (int(gene) for gene in levels[: self.extras])
        counts = [int(count) for count in self._counts(index)[levels[self.extras :]]]
        if self.layout.token_pooled:
            counts.append(counts[-1])
        left_out = self.spared[:fewer]
        for layer in sorted(left_out):
            counts[layer] = counts[layer - 1] if layer else self.at_size[index]
        executed = tuple(layer for layer in range(self.layout.layers) if layer not in left_out) if fewer else None
        return Configuration(
            TokenSchedule(tuple(counts), executed),
            image_size=self.sizes[index] if index else None,
            score=self.scores[score] if score else None,
            precision=self.precisions[precision] if precision else None,
            reduction=self.reductions[reduction] if reduction else None,
        ).choice

    def encode(self, choice: Choice) -> Levels:
        """The row of the nearest configuration of this space.

        Raises:
            ScheduleError: It does not fit the model at its size, or skips layers in another order.
        """
        genes, wanted = [0] * self.extras, Configuration.of(choice)
        schedule = wanted.schedule
        if schedule.executed is not None:
            genes[_LAYERS] = self.layout.layers - len(schedule.executed)
            if set(self.spared[: genes[_LAYERS]]) | set(schedule.executed) != set(range(self.layout.layers)):
                raise ScheduleError(f"this search leaves out layers in the order {self.spared}, got {choice}")
        known = {_SIZE: self.sizes, _SCORE: self.scores, _PRECISION: self.precisions, _REDUCTION: self.reductions}
        for gene, values in known.items():
            if (value := getattr(wanted, GENES[gene])) is not None:
                genes[gene] = values.index(value)
        schedule.check(replace(self.layout, tokens=self.at_size[genes[_SIZE]]))
        counts = np.asarray(schedule.counts[: self.genes - self.extras], dtype=np.int64)
        nearest = np.abs(self._counts(genes[_SIZE])[None, :] - counts[:, None]).argmin(axis=1)
        return self.mend(np.append(np.asarray(genes), nearest))

    def mend(self, levels: NDArray[Any]) -> Levels:
        """Any numbers (..., G) -> genes: of several rows for one schedule the same."""
        rows = np.atleast_2d(np.asarray(levels, dtype=float))
        first = np.clip(np.rint(rows[:, : self.extras]), 0, np.asarray(self.choices) - 1).astype(np.int64)
        rest = Space.mend(self, rows[:, self.extras :])
        for extra, counts in zip(first, rest, strict=True):
            counts[:] = self._first_of_equals(int(extra[_SIZE]))[counts]
            for layer in sorted(self.spared[: extra[_LAYERS]]):
                if layer < len(counts):
                    counts[layer] = counts[layer - 1] if layer else len(self.values) - 1
            size = int(extra[_SIZE])
            counts[:] = np.minimum.accumulate(self._first_of_equals(size)[counts])
            if int(self._counts(size)[counts].min(initial=self.layout.tokens)) == self.at_size[size]:
                extra[[_SCORE, _REDUCTION]] = 0  # where nothing leaves, nothing is scored or merged
        mended: Levels = np.concatenate([first, rest], axis=1).reshape(np.shape(levels))
        return mended

    def sample(self, rng: np.random.Generator) -> Levels:
        """As ``Space.sample``, under values of the first genes drawn evenly; every other runs all layers."""
        extra = [int(rng.integers(choices)) for choices in self.choices]
        extra[_LAYERS] *= int(rng.integers(2))
        return self.mend(np.append(extra, self.plain.sample(rng)))

    def every(self) -> Iterator[Levels]:
        """Each row that ``mend`` leaves as it is."""
        for extra in product(*map(range, self.choices)):
            for levels in self.plain.every():
                row = np.append(np.asarray(extra, dtype=np.int64), levels)
                if np.array_equal(row, self.mend(row)):
                    yield row

    def given(self, choice: Choice, **genes: int) -> Choice:
        """The same with genes at other values, each by its place among them; 0 is the model's own."""
        row = self.encode(choice)
        for gene, index in genes.items():
            row[GENES.index(gene)] = index
        return self.decode(self.mend(row))

    def _counts(self, index: int) -> Levels:
        """The count of every level at a size."""
        return _scaled(self.values.tobytes(), self.layout, self.at_size[index])

    def _first_of_equals(self, index: int) -> Levels:
        """Of each level the lowest that stands for the same count; the top one stays the top."""
        counts = self._counts(index)
        return np.searchsorted(counts, counts, side="left").astype(np.int64)


@cache
def _scaled(values: bytes, layout: TokenLayout, at_size: int) -> Levels:
    counts, prefix = np.frombuffer(values, dtype=np.int64), layout.prefix
    share = (at_size - prefix) / (layout.tokens - prefix)
    # The same least number of patches at every size, but never more than half of them.
    low = max(layout.least, min(int(counts[0]), prefix + (at_size - prefix) // 2))
    scaled: Levels = np.clip(np.rint(prefix + (counts - prefix) * share), low, at_size).astype(np.int64)
    scaled.flags.writeable = False
    return scaled


def _bits(space: JointSpace, *, int8: bool) -> Iterator[dict[str, int]]:
    places = range(1, len(space.precisions))
    return ({"precision": bits} for bits in places if (space.precisions[bits] == "int8") == int8)


def _resolution(space: JointSpace) -> Iterator[dict[str, int]]:
    places = product(range(1, len(space.sizes)), range(len(space.precisions)))
    return ({"image_size": size, "precision": bits} for size, bits in places)


def _layers(space: JointSpace) -> Iterator[dict[str, int]]:
    ends = dict.fromkeys((0, len(space.precisions) - 1))
    return ({"layers": fewer, "precision": bits} for fewer, bits in product(range(1, len(space.spared) + 1), ends))


BASELINES: dict[str, Callable[[JointSpace], Iterable[dict[str, int]]]] = {
    "other": partial(_bits, int8=False),
    "int8": partial(_bits, int8=True),
    "resolution": _resolution,
    "layers": _layers,
}
"""What a joint search evaluates beside its own proposals: by kind, genes that the dense model is ``given``."""

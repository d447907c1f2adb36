"""The configurations of a search: image size, layers, score, precision and reduction are genes before the counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import ScheduleError
from tavt_kit.search.space import Levels, Space

GENES = ("image_size", "layers", "score", "precision", "reduction")
"""In their order; of each the place among its values, 0 being the model's own."""

_SIZE, _LAYERS, _SCORE, _PRECISION, _REDUCTION = range(len(GENES))


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSpace(Space):
    """A ``Space`` with five genes before the levels of the layers.

    A level is a share of the patches: the count that it stands for at the model's own size, scaled to the patches of
    the size at hand. So a change of the image size keeps the shape of a schedule, and crossing two sizes means
    something. Of rows that decode to one schedule ``mend`` keeps one.

    Args:
        sizes: (H, W) in pixels, the model's own first.
        at_size: Tokens of an image of each size.
        spared: Layers that may be left out, the first to go first.
        scores: The model's own first.
        precisions: The target's own first, then with ever fewer bits.
        reductions: The model's own first.

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
        return Space(self.layout, self.minimum, self.quantum)

    @property
    def extras(self) -> int:
        """Genes before the levels."""
        return len(GENES)

    @property
    def genes(self) -> int:
        """Of a whole row."""
        return self.extras + self.plain.genes

    @property
    def choices(self) -> tuple[int, ...]:
        """How many values each of the first genes has."""
        lengths = (len(self.sizes), len(self.spared) + 1, len(self.scores), len(self.precisions), len(self.reductions))
        return lengths

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
        steps = [(place, fewer) for place in range(size, sizes)]
        steps += [(sizes - 1, gone) for gone in range(fewer + 1, layers)]
        for (place, gone), precision in product(steps, sorts):
            yield np.array([place, gone, score, precision, reduction], dtype=np.int64)

    @property
    def baselines(self) -> dict[Choice, str]:
        """The dense model in each precision, at each smaller size in each of them, and with fewer layers; their kinds.

        With fewer layers it is there in the target's own precision and in the fewest bits.
        """
        sizes, layers, _, precisions, _ = self.choices
        kinds = ["int8" if one == "int8" else "other" for one in self.precisions]
        wanted = [(kinds[one], {_PRECISION: one}) for one in range(1, precisions)]
        wanted += [
            ("resolution", {_SIZE: size, _PRECISION: one}) for size, one in product(range(1, sizes), range(precisions))
        ]
        ends = dict.fromkeys((0, precisions - 1))
        wanted += [("layers", {_LAYERS: fewer, _PRECISION: one}) for fewer, one in product(range(1, layers), ends)]
        found: dict[Choice, str] = {}
        for kind, values in wanted:
            row = np.full(self.genes, len(self.values) - 1)
            row[: self.extras] = 0
            row[list(values)] = list(values.values())
            found.setdefault(self.decode(self.mend(row)), kind)
        return found

    def dressed(self, choice: Choice, number: int) -> Choice:
        """One of the first proposals: in the fewest bits, the reductions, sizes and scores in turns."""
        sizes, _, scores, precisions, reductions = self.choices
        turn, reduction = divmod(number, reductions)
        turn, size = divmod(turn, sizes)
        return self.given(
            choice, precision=precisions - 1, reduction=reduction, image_size=size, score=turn % scores
        )  # fmt: skip

    def decode(self, levels: Levels) -> Choice:
        """The configuration of one row: its schedule alone where every gene is the model's own."""
        place, fewer, score, precision, reduction = (int(gene) for gene in levels[: self.extras])
        counts = [int(count) for count in self._counts(place)[levels[self.extras :]]]
        if self.layout.token_pooled:
            counts.append(counts[-1])
        left_out = self.spared[:fewer]
        for layer in range(self.layout.layers):
            if layer in left_out:
                counts[layer] = counts[layer - 1] if layer else self.at_size[place]
        executed = tuple(layer for layer in range(self.layout.layers) if layer not in left_out) if fewer else None
        return Configuration(
            TokenSchedule(tuple(counts), executed),
            image_size=self.sizes[place] if place else None,
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
        if wanted.image_size is not None:
            genes[_SIZE] = self.sizes.index(wanted.image_size)
        if wanted.score is not None:
            genes[_SCORE] = self.scores.index(wanted.score)
        if wanted.precision is not None:
            genes[_PRECISION] = self.precisions.index(wanted.precision)
        if wanted.reduction is not None:
            genes[_REDUCTION] = self.reductions.index(wanted.reduction)
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

    def vary(self, genes: Levels, rng: np.random.Generator) -> Levels:
        """The first genes of a child: each changes once in four times."""
        changed = genes.copy()
        for place, choices in enumerate(self.choices):
            if rng.random() < 0.25:
                changed[place] = rng.integers(choices)
        return changed

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
        for gene, place in genes.items():
            row[GENES.index(gene)] = place
        return self.decode(self.mend(row))

    def undropped(self, choice: Choice) -> Choice:
        """The same with every token of its image."""
        row = self.encode(choice)
        row[self.extras :] = len(self.values) - 1
        return self.decode(self.mend(row))

    def _counts(self, place: int) -> Levels:
        """The count of every level at a size."""
        return _scaled(self.values.tobytes(), self.layout, self.at_size[place])

    def _first_of_equals(self, place: int) -> Levels:
        """Of each level the lowest that stands for the same count; the top one stays the top."""
        return _lowest(self._counts(place).tobytes())


@cache
def _scaled(values: bytes, layout: TokenLayout, at_size: int) -> Levels:
    counts, prefix = np.frombuffer(values, dtype=np.int64), layout.prefix
    share = (at_size - prefix) / (layout.tokens - prefix)
    # The same least number of patches at every size, but never more than half of them.
    low = max(layout.least, min(int(counts[0]), prefix + (at_size - prefix) // 2))
    scaled: Levels = np.clip(np.rint(prefix + (counts - prefix) * share), low, at_size).astype(np.int64)
    scaled.flags.writeable = False
    return scaled


@cache
def _lowest(counts: bytes) -> Levels:
    given = np.frombuffer(counts, dtype=np.int64)
    found: Levels = np.searchsorted(given, given, side="left").astype(np.int64)
    found.flags.writeable = False
    return found

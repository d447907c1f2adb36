"""What algorithms propose from: first proposals, variation, and what is left untried, so that none is asked twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.configuration import Choice
from tavt_kit.core.schedule import PUBLISHED, Curve, TokenSchedule, published_shares, shares_to_counts, stage_layers
from tavt_kit.errors import BudgetTooTight
from tavt_kit.search.space import Levels, Space

Fits = Callable[[Any], bool]
"""Whether a schedule keeps to the ceilings of the budget."""

Family = Callable[[Space, float], Choice]
"""Schedules of one shape, by the ratio they drop."""


def taper(space: Space, ratio: float) -> Choice:
    """TAVT's: the same share dropped in every layer."""
    return _into(space, TokenSchedule.taper(space.layout, ratio).counts)


def stages(space: Space, ratio: float) -> Choice:
    """The share ``ratio`` dropped at each of three depths; rounded once, so that every ratio is a step of its own.

    Example:
        >>> from tavt_kit.core.layout import TokenLayout
        >>> str(stages(Space(TokenLayout(197, 12)), 0.3))
        '197x3,138x3,97x3,68x3'
    """
    depths, counts, kept = stage_layers(space.layout.layers), list[int](), float(space.layout.tokens)
    for layer in range(space.layout.layers):
        kept *= 1 - ratio if layer in depths else 1.0
        counts.append(round(kept))
    return _into(space, counts)


def late(space: Space, ratio: float) -> Choice:
    """A taper that begins after the first third of the layers."""
    tokens, layers = space.layout.tokens, space.layout.layers
    counts = [tokens * (1 - ratio) ** max(0, layer + 1 - layers // 3) for layer in range(layers)]
    return _into(space, [round(count) for count in counts])


def curve(power: float) -> Family:
    """Patches leave from a sixth of the depth on, down to the share that the ratio leaves, late by ``power``."""

    def family(space: Space, ratio: float) -> Choice:
        layers = space.layout.layers
        return _along(space, Curve(layers // 6, layers, max(1 - ratio, 1e-3), power).shares(layers))

    return family


def drawn_curve(space: Space, rng: np.random.Generator) -> Choice:
    """A curve of a random start, stop, end and power; what evolution goes on from, count by count."""
    layers, patches = space.layout.layers, space.layout.tokens - space.layout.prefix
    drawn = Curve.drawn(layers, patches, lambda low, high: int(rng.integers(low, high, endpoint=True)), rng.random)
    return _along(space, drawn.shares(layers))


def published(space: Space) -> list[Choice]:
    """The schedules that DiffRate learned, at this depth."""
    return [_along(space, published_shares(name, space.layout.layers)) for name in PUBLISHED]


def _along(space: Space, shares: tuple[float, ...]) -> Choice:
    return _into(space, shares_to_counts(shares, space.layout.tokens, space.layout.prefix))


def first_proposals(space: Space, number: int, *, fits: Fits, rng: np.random.Generator) -> Iterator[tuple[Choice, str]]:
    """Schedules with the name of their family, all within the ceilings; random ones without end at last.

    Of about ``number`` a quarter are curves, a fifth each stage schedules and tapers, an eighth each tapers that begin
    late and what was published. Every other random one is a curve, which may miss the ceilings and repeat itself.
    """
    if fits(space.dense):
        yield space.dense, "dense"
    known = [space.dressed(schedule, index) for index, schedule in enumerate(published(space))]
    for schedule in list(filter(fits, known))[: max(1, number // 8)]:
        yield schedule, "published"
    families = (
        ("curve", curve(1.0), 0.9, 8),
        ("curve", curve(2.0), 0.9, 8),
        ("stages", stages, 0.8, 5),
        ("taper", taper, 0.5, 5),
        ("late", late, 0.6, 8),
    )
    for name, family, strongest, share in families:
        wanted = max(1, number // share)
        for index in range(wanted):

            def proposed(ratio: float, family: Family = family, index: int = index) -> Choice:
                return space.dressed(family(space, ratio), index)

            # The smallest ratio that fits, to 1/1000; where none does, the search shrinks what it is given.
            low, high = 0.02, 0.02 if fits(proposed(0.02)) else 0.98
            while high - low > 1e-3:
                middle = (low + high) / 2
                low, high = (low, middle) if fits(proposed(middle)) else (middle, high)
            ratio = np.linspace(high, max(strongest, high), wanted)[index]
            yield proposed(float(ratio)), name
    for index in count():
        yield space.dressed(drawn_curve(space, rng), index), "random"
        yield space.decode(space.sample(rng)), "random"


def _into(space: Space, counts: list[int] | tuple[int, ...]) -> Choice:
    least = int(space.values[0])
    schedule = TokenSchedule(tuple(max(least, count) for count in counts))
    return space.decode(space.encode(schedule))


Real = NDArray[np.float64]


def cross(a: Levels, b: Levels, rng: np.random.Generator) -> tuple[Real, Real]:
    """Two children, not mended: a blend of all layers (TAVT's is even), or one's early with the other's late ones."""
    if rng.random() < 0.5:
        weight = rng.random()
        return weight * a + (1 - weight) * b, (1 - weight) * a + weight * b
    cut = rng.integers(0, len(a) + 1)
    return np.append(a[:cut], b[cut:]).astype(float), np.append(b[:cut], a[cut:]).astype(float)


def mutate(genes: Levels, space: Space, rng: np.random.Generator) -> Real:
    """A changed copy, not mended yet, by one of four moves: fronts need both new shapes and small steps."""
    move, levels, top = rng.integers(4), genes[space.extras :].astype(float), len(space.values) - 1
    if move == 0:
        levels = redraw(levels, top, rng)
    elif move == 1:  # everything from one layer on gets a common factor
        levels[rng.integers(len(levels)) :] *= np.exp(rng.normal(0.0, 0.3))
    elif move == 2:  # a drop happens a layer later or earlier
        layer = rng.integers(len(levels))
        if rng.random() < 0.5:
            levels[layer] = levels[layer - 1] if layer else top
        elif layer + 1 < len(levels):
            levels[layer] = levels[layer + 1]
    else:  # small steps everywhere
        levels = levels + rng.normal(0.0, max(1.0, 0.03 * top), size=len(levels))
    return np.append(space.vary(genes[: space.extras], rng), levels).astype(float)


def redraw(genes: Real, top: int, rng: np.random.Generator) -> Real:
    """TAVT's mutation: some counts drawn anew between their neighbours; changes ``genes``, all levels up to ``top``."""
    for layer in np.flatnonzero(rng.random(len(genes)) < 0.5):
        above = genes[layer - 1] if layer else top
        below = genes[layer + 1] if layer + 1 < len(genes) else 0
        genes[layer] = rng.integers(int(below), int(max(above, below)) + 1)
    return genes


def fit(genes: Levels, space: Space, fits: Fits, *, fill: bool) -> Levels:
    """Genes within the ceilings: shrunk where they exceed them, grown to them where ``fill`` asks for it.

    One of the ends of the space must be within them. Where a joint search's further genes leave no room, they become
    cheaper, no further than that takes.
    """
    top, shrinks = len(space.values) - 1, not fits(space.decode(genes))
    others, levels = genes[: space.extras], genes[space.extras :]
    if not shrinks and not fill:
        return genes
    if shrinks:
        emptied = ((extras, space.mend(np.append(extras, 0 * levels))) for extras in space.cheaper(others))
        others = next((extras for extras, row in emptied if fits(space.decode(row))), others)

    def made(strength: float) -> Levels:
        changed = levels * (1 - strength) if shrinks else top - (top - levels) * strength
        return space.mend(np.append(others, changed))

    best = made(1.0)  # which always fits
    low, high = 0.0, 1.0
    for _ in range(10):  # the smallest strength that fits, by halvings
        middle = (low + high) / 2
        tried = made(middle)
        if fits(space.decode(tried)):
            best, high = tried, middle
        else:
            low = middle
    return best


_TRIES = 400  # random draws for one missing schedule, before the space is listed or the search ends
_LISTABLE = 20_000  # spaces up to this size are listed to the end before they count as exhausted


class ProposalPool:
    """The schedules within the ceilings that were never asked, and who proposed those that were."""

    def __init__(self, space: Space, *, rng: np.random.Generator, fits: Fits | None = None) -> None:
        self.space = space
        self.fits: Fits = fits or (lambda schedule: True)
        if not any(map(self.fits, space.ends)):
            raise BudgetTooTight(f"not even the least schedule keeps to the ceilings: {space.ends[-1]}")
        self.asked: set[bytes] = set()
        self._rng = rng
        self.origins: dict[Choice, str] = {}

    def first(self, number: int, seeds: Sequence[Choice]) -> list[Levels]:
        """The seeds, and at least as many from the families of ``first_proposals``; a small space gives fewer."""
        admitted = self._seeded(seeds)
        wanted = max(number, 2 * len(admitted))
        proposals = first_proposals(self.space, wanted, fits=self.fits, rng=self._rng)
        for schedule, origin in islice(proposals, wanted + _TRIES):
            if len(admitted) >= wanted:
                break
            self._admit(admitted, schedule, origin)
        return list(admitted.values())

    def random(self, number: int, seeds: Sequence[Choice] = ()) -> list[Levels]:
        """The seeds and, up to ``number``, schedules by chance; where chance finds none, from the list of all."""
        admitted = self._seeded(seeds)
        for _ in range(_TRIES):
            if len(admitted) >= number:
                break
            self._admit(admitted, self.space.decode(self.space.sample(self._rng)), "random")
        if not admitted and self.space.size <= _LISTABLE:
            left = (row for row in self.space.every() if row.tobytes() not in self.asked)
            return list(islice((row for row in left if self.fits(self.space.decode(row))), number))
        return list(admitted.values())

    def new(self, rows: Iterable[Levels], number: int) -> list[Levels]:
        """Up to ``number`` of the rows, brought into the ceilings, none asked before and none twice."""
        admitted: dict[bytes, Levels] = {}
        for row in rows:
            genes = fit(row, self.space, self.fits, fill=False)
            if genes.tobytes() not in self.asked:
                admitted.setdefault(genes.tobytes(), genes)
            if len(admitted) >= number:
                break
        return list(admitted.values())

    def issue(self, genes: Sequence[Levels], origin: str) -> list[Choice]:
        """The schedules of the genes, asked from now on; ``origin`` is of those that have none yet."""
        self.asked.update(row.tobytes() for row in genes)
        schedules = [self.space.decode(row) for row in genes]
        for schedule in schedules:
            self.origins.setdefault(schedule, origin)
        return schedules

    def _seeded(self, seeds: Sequence[Choice]) -> dict[bytes, Levels]:
        admitted: dict[bytes, Levels] = {}
        for schedule in seeds:
            self._admit(admitted, schedule, "user")
        return admitted

    def _admit(self, admitted: dict[bytes, Levels], schedule: Choice, origin: str) -> None:
        wanted = self.space.encode(schedule)
        genes = fit(wanted, self.space, self.fits, fill=False)
        if genes.tobytes() not in self.asked:
            admitted.setdefault(genes.tobytes(), genes)
            same = np.array_equal(genes[: self.space.extras], wanted[: self.space.extras])
            self.origins.setdefault(self.space.decode(genes), origin if same else "joint")


def non_dominated(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n, 2), both to be minimised -> (n,) which are dominated by no other; equals both stay."""
    nowhere_worse = (losses[:, None, :] <= losses[None, :, :]).all(-1)
    somewhere_better = (losses[:, None, :] < losses[None, :, :]).any(-1)
    return np.asarray(~(nowhere_worse & somewhere_better).any(0))

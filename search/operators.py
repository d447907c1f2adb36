"""How schedules are varied and mended: crossover, mutation, and fitting into the ceilings of a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tavt_kit.search.seeds import Fits
from tavt_kit.search.space import Levels, Space

__all__ = ["cross", "fit", "mutate", "redraw"]

Real = NDArray[np.float64]


def cross(a: Levels, b: Levels, rng: np.random.Generator) -> tuple[Real, Real]:
    """Two children of two parents, not mended yet.

    Either a blend of all layers (TAVT's is the even blend), or one's early layers with the other's late ones.
    """
    if rng.random() < 0.5:
        weight = rng.random()
        return weight * a + (1 - weight) * b, (1 - weight) * a + weight * b
    cut = rng.integers(0, len(a) + 1)
    return np.append(a[:cut], b[cut:]).astype(float), np.append(b[:cut], a[cut:]).astype(float)


def mutate(genes: Levels, space: Space, rng: np.random.Generator) -> Real:
    """A changed copy, not mended yet, by one of four moves: fronts need both new shapes and small steps."""
    moves = (redraw, _scale_tail, _move_drop, _step)
    move = moves[rng.integers(len(moves))]
    levels = move(genes[space.extras :].astype(float), len(space.values) - 1, rng)
    return np.append(space.vary(genes[: space.extras], rng), levels).astype(float)


def redraw(genes: Real, top: int, rng: np.random.Generator) -> Real:
    """TAVT's mutation: some counts drawn anew between their neighbours; changes ``genes``, all levels up to ``top``."""
    for layer in np.flatnonzero(rng.random(len(genes)) < 0.5):
        above = genes[layer - 1] if layer else top
        below = genes[layer + 1] if layer + 1 < len(genes) else 0
        genes[layer] = rng.integers(int(below), int(max(above, below)) + 1)
    return genes


def _scale_tail(genes: Real, top: int, rng: np.random.Generator) -> Real:
    """Everything from one layer on gets a common factor."""
    genes[rng.integers(len(genes)) :] *= np.exp(rng.normal(0.0, 0.3))
    return genes


def _move_drop(genes: Real, top: int, rng: np.random.Generator) -> Real:
    """A drop happens a layer later or earlier."""
    layer = rng.integers(len(genes))
    if rng.random() < 0.5:
        genes[layer] = genes[layer - 1] if layer else top
    elif layer + 1 < len(genes):
        genes[layer] = genes[layer + 1]
    return genes


def _step(genes: Real, top: int, rng: np.random.Generator) -> Real:
    """Small steps everywhere."""
    return genes + rng.normal(0.0, max(1.0, 0.03 * top), size=len(genes))


def fit(genes: Levels, space: Space, fits: Fits, *, fill: bool) -> Levels:
    """Genes within the ceilings: shrunk where they exceed them, grown to them where ``fill`` asks for it.

    One of the ends of the space must be within them. Where a joint search's further genes leave no room, they become
    cheaper, no further than that takes.
    """
    top = len(space.values) - 1
    others, levels = genes[: space.extras], genes[space.extras :]

    def shrunk(strength: float) -> Levels:
        return space.mend(np.append(others, levels * (1 - strength)))

    def grown(strength: float) -> Levels:
        return space.mend(np.append(others, top - (top - levels) * strength))

    if not fits(space.decode(genes)):
        emptied = ((extras, space.mend(np.append(extras, 0 * levels))) for extras in space.cheaper(others))
        others = next((extras for extras, row in emptied if fits(space.decode(row))), others)
        return _weakest(shrunk, space, fits)
    return _weakest(grown, space, fits) if fill else genes


def _weakest(made: Callable[[float], Levels], space: Space, fits: Fits) -> Levels:
    """The genes of the smallest strength in (0, 1] that fit, by 10 halvings; strength 1 always fits."""
    best = made(1.0)
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        genes = made(middle)
        if fits(space.decode(genes)):
            best, high = genes, middle
        else:
            low = middle
    return best

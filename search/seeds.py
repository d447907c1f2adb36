"""Where a search begins: schedules that are good without one, each family as strong as the budget demands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tavt_kit.core.configuration import Choice
from tavt_kit.core.schedule import TokenSchedule, stage_layers
from tavt_kit.search.space import Space

__all__ = ["Fits", "first_proposals", "late", "once", "stages", "taper"]

Fits = Callable[[Any], bool]
"""Whether a schedule keeps to the ceilings of the budget."""

Family = Callable[[Space, float], Choice]
"""Schedules of one shape, by the ratio they drop."""


def taper(space: Space, ratio: float) -> Choice:
    """TAVT's: the same share dropped in every layer."""
    return _into(space, TokenSchedule.taper(space.tokens, space.layers, ratio, space.prefix).counts)


def stages(space: Space, ratio: float) -> Choice:
    """The share ``ratio`` dropped at each of three depths; rounded once, so that every ratio is a step of its own.

    Example:
        >>> str(stages(Space(tokens=197, layers=12), 0.3))
        '197x3,138x3,97x3,68x3'
    """
    places, counts, kept = stage_layers(space.layers), list[int](), float(space.tokens)
    for layer in range(space.layers):
        kept *= 1 - ratio if layer in places else 1.0
        counts.append(round(kept))
    return _into(space, counts)


def late(space: Space, ratio: float) -> Choice:
    """A taper that begins after the first third of the layers."""
    start = space.layers // 3
    counts = [space.tokens * (1 - ratio) ** max(0, layer + 1 - start) for layer in range(space.layers)]
    return _into(space, [round(count) for count in counts])


def once(space: Space) -> list[Choice]:
    """Schedules that drop in one layer alone, early or late: where memory is limited, every dropping layer takes some.

    Example:
        >>> [str(schedule) for schedule in once(Space(tokens=197, layers=12))][:3]
        ['148x12', '98x12', '49x12']
    """
    found = []
    for place in (0, space.layers // 3, 2 * space.layers // 3):
        for share in (0.75, 0.5, 0.25):
            kept = round(space.tokens * share)
            found.append(_into(space, [space.tokens] * place + [kept] * (space.layers - place)))
    return list(dict.fromkeys(found))


def first_proposals(space: Space, number: int, *, fits: Fits, rng: np.random.Generator) -> Iterator[tuple[Choice, str]]:
    """Schedules with the name of their family, all within the ceilings; random ones without end at last.

    Args:
        space: What may be proposed.
        number: About how many are wanted: a third tapers, a third stage schedules, a sixth late tapers.
        fits: See ``Fits``.
        rng: For the random ones, which may miss the ceilings and repeat themselves.
    """
    if fits(space.dense):
        yield space.dense, "dense"
    for schedule in space.firsts:
        yield schedule, "joint"
    families = (("taper", taper, 0.5, 3), ("stages", stages, 0.8, 3), ("late", late, 0.6, 6))
    for name, family, strongest, share in families:
        gentlest = _gentlest(space, family, fits)
        for ratio in np.linspace(gentlest, max(strongest, gentlest), max(1, number // share)):
            yield family(space, float(ratio)), name
    while True:
        yield space.decode(space.sample(rng)), "random"


def _gentlest(space: Space, family: Family, fits: Fits) -> float:
    """The smallest drop ratio that fits, to 1/1000; where none does, the search shrinks what it is given."""
    if fits(family(space, 0.02)):
        return 0.02
    low, high = 0.02, 0.98
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(family(space, middle)) else (middle, high)
    return high


def _into(space: Space, counts: list[int] | tuple[int, ...]) -> Choice:
    least = int(space.values[0])
    schedule = TokenSchedule(tuple(max(least, count) for count in counts))
    return space.decode(space.encode(schedule))

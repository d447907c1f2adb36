"""Which sub-networks a distillation step trains: token counts by ratio, bound, stages or curve, and layer dropout.

The official rules are those of TAVT's code (Length-Adaptive Transformer, ACL 2021, section 3.2), in the same order of
draws: with a ``numpy.random.RandomState`` the samples are the official ones, number by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import Curve, TokenSchedule, shares_to_counts, stage_layers
from tavt_kit.distill.options import require, require_known, require_ranges

SAMPLINGS = ("bound", "ratio", "stages", "curve", "dense")

Draws = np.random.Generator | np.random.RandomState
"""Where randomness comes from; the legacy kind repeats the official samples."""


def _whole(draws: Draws, low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    if isinstance(draws, np.random.RandomState):
        return int(draws.randint(low, high + 1))
    return int(draws.integers(low, high, endpoint=True))


def _counts(
    tokens: int, layers: int, floor: int, executed: Collection[int] | None, keep: Callable[[int, int], int]
) -> tuple[int, ...]:
    """Count after each layer, by (layer, tokens that enter it); one that does not run repeats it and draws nothing."""
    counts, count = [], tokens
    for layer in range(layers):
        if executed is None or layer in executed:
            count = max(keep(layer, count), floor)
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
    return _counts(tokens, layers, floor, executed, lambda _, n: math.ceil(n * (1 - ratio)))


def bounded_counts(
    tokens: int, layers: int, bound: float, draws: Draws, *, floor: int = 2, executed: Collection[int] | None = None
) -> tuple[int, ...]:
    """A random sub-network: uniform in ``ceil(n * (1 - bound)) .. n`` after each executed layer."""
    return _counts(tokens, layers, floor, executed, lambda _, n: _whole(draws, math.ceil(n * (1 - bound)), n))


def staged_counts(
    tokens: int,
    layers: int,
    bound: float,
    draws: Draws | None = None,
    *,
    floor: int = 2,
    executed: Collection[int] | None = None,
) -> tuple[int, ...]:
    """A sub-network that drops in stages: in the layers of ``stage_layers``, or somewhere between one and the next.

    What the bound lets a quarter of the layers drop goes at once: up to ``1 - (1 - bound) ** (layers / 4)``. For each
    stage a layer is drawn, uniform in its range, and a share, uniform in 0 to the largest; without draws it is the
    smallest network: the first layers, the largest share.

    Example:
        >>> staged_counts(65, 12, 0.2)
        (65, 65, 65, 34, 34, 34, 18, 18, 18, 10, 10, 10)
    """
    most = 1 - (1 - bound) ** (layers / 4)
    starts = stage_layers(layers)
    shares = {}
    for start, end in zip(starts, (*starts[1:], layers), strict=True):
        layer = start if draws is None else _whole(draws, start, end - 1)
        shares[layer] = most if draws is None else float(draws.uniform(0, most))
    return _counts(tokens, layers, floor, executed, lambda layer, n: math.ceil(n * (1 - shares.get(layer, 0.0))))


def curved_counts(
    tokens: int,
    layers: int,
    prefix: int,
    bound: float,
    draws: Draws | None = None,
    *,
    executed: Collection[int] | None = None,
) -> tuple[int, ...]:
    """A sub-network whose tokens leave late, down to 16 patches; a layer that does not run keeps what reached it.

    The smallest network drops the share ``bound`` of the patches in every layer but the first sixth. With draws it is a
    curve (``Curve.drawn``) of which no layer keeps fewer.

    Example:
        >>> curved_counts(65, 12, 1, 0.2)
        (65, 65, 52, 42, 34, 27, 22, 18, 17, 17, 17, 17)
    """
    smallest = tuple((1 - bound) ** max(0, layer + 1 - layers // 6) for layer in range(layers))
    shares = smallest
    if draws is not None:
        curve = Curve.drawn(layers, tokens - prefix, partial(_whole, draws), lambda: float(draws.uniform()))
        shares = tuple(map(max, curve.shares(layers), smallest))
    counts = shares_to_counts(shares, tokens, prefix)
    return _counts(tokens, layers, prefix + 1, executed, lambda layer, _: counts[layer])


def surviving_layers(layers: int, probability: float, draws: Draws) -> tuple[int, ...]:
    """Layer dropout: each layer is left out with ``probability``; all of them may be."""
    return tuple(layer for layer in range(layers) if draws.random() >= probability)


@dataclass(frozen=True, slots=True)
class Sampler:
    """The schedules of one sandwich step: the full network, the smallest, and some in between.

    Args:
        bound: Largest share of tokens that a layer may drop; the smallest network drops it everywhere, unless drops
            come in stages.
        random: Random networks per step (the official ``num_sandwich``).
        layer_dropout: Probability that a layer is left out, in the full network too (as officially).
        sampling: How a random network is drawn: by ``bounded_counts`` (as officially), ``ratio_counts`` of one ratio,
            uniform in 0 to the bound, ``staged_counts`` or ``curved_counts``; not at all, nor the smallest one
            (``"dense"``).
        schedules: If any, networks are drawn from these instead: the one of fewest tokens in every step, and random
            ones of the others, none twice while there are enough.

    Raises:
        TrainingError: A value out of its range, or schedules that drop nothing.
        ScheduleError: A schedule does not fit the sizes.
    """

    layout: TokenLayout
    bound: float = 0.2
    random: int = 2
    layer_dropout: float | None = None
    sampling: str = "bound"
    schedules: tuple[TokenSchedule, ...] = ()

    def __post_init__(self) -> None:
        require_ranges(self, bound="(0, 1)", random="[0, inf)", layer_dropout="[0, 1)")
        require_known(self, sampling=SAMPLINGS)
        if self.schedules:
            for schedule in self.schedules:
                schedule.check(self.layout)
            dropping = {schedule for schedule in self.schedules if not schedule.is_dense(self.layout.tokens)}
            require(
                bool(dropping),
                f"every schedule that was given keeps all {self.layout.tokens} tokens, as the full network does; give "
                "at least one that drops some",
            )
            ordered = sorted(dropping, key=lambda schedule: (sum(schedule.counts), schedule.counts))
            object.__setattr__(self, "schedules", tuple(ordered))

    def draw(self, draws: Draws) -> tuple[TokenSchedule, tuple[TokenSchedule, ...]]:
        """The full network, then the smallest and the random ones; layers are drawn before counts, as officially."""
        full = TokenSchedule((self.layout.tokens,) * self.layout.layers, self._survivors(draws))
        if self.sampling == "dense":
            return full, ()
        if self.schedules:
            return full, tuple(self._thinned(schedule, draws) for schedule in self._picked(draws))
        return full, tuple(self._sub(draws, smallest=index == 0) for index in range(self.random + 1))

    def _picked(self, draws: Draws) -> Iterator[TokenSchedule]:
        smallest, *others = self.schedules
        yield smallest
        others = others or [smallest]
        for start in range(0, self.random, len(others)):
            for index in draws.permutation(len(others))[: self.random - start]:
                yield others[index]

    def _thinned(self, schedule: TokenSchedule, draws: Draws) -> TokenSchedule:
        """Under layer dropout: a layer that does not run keeps what reached it."""
        executed = self._survivors(draws)
        if executed is None:
            return schedule
        tokens, layers, wanted = self.layout.tokens, self.layout.layers, schedule.counts
        return TokenSchedule(_counts(tokens, layers, 1, executed, lambda layer, _: wanted[layer]), executed)

    def _sub(self, draws: Draws, *, smallest: bool) -> TokenSchedule:
        executed = self._survivors(draws)
        tokens, layers, bound, drawn = self.layout.tokens, self.layout.layers, self.bound, None if smallest else draws
        rule: dict[str, Any] = {"floor": self.layout.least, "executed": executed}
        if self.sampling == "stages":
            counts = staged_counts(tokens, layers, bound, drawn, **rule)
        elif self.sampling == "curve":
            counts = curved_counts(tokens, layers, self.layout.prefix, bound, drawn, executed=executed)
        elif smallest or self.sampling == "ratio":
            ratio = bound if smallest else float(draws.uniform(0, bound))
            counts = ratio_counts(tokens, layers, ratio, **rule)
        else:
            counts = bounded_counts(tokens, layers, bound, draws, **rule)
        return TokenSchedule(counts, executed)

    def _survivors(self, draws: Draws) -> tuple[int, ...] | None:
        if self.layer_dropout is None:
            return None
        return surviving_layers(self.layout.layers, self.layer_dropout, draws)

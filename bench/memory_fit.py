"""Fit the peak memory of a model's schedules on a target: measure a few in fresh processes, and test it on others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tavt_kit.bench.passes import random_schedules
from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.memory_fit import MemoryFit, MemoryPoint, gene_terms, memory_terms
from tavt_kit.core.schedule import TokenSchedule

__all__ = ["fit_memory"]

_HELD_OUT = 4

_EVIDENCE = 6.0
"""By how much the terms of a schedule must better the Bayesian criterion before they are believed."""

Measured = Callable[[str, Choice], Sequence[int]]
"""(purpose, schedule) -> peak memory in bytes, of one fresh process or several: ``end``, ``fit`` or ``held out``."""

Varied = Callable[[Choice, np.random.Generator], Choice]
"""A random schedule of token counts -> the one of the search's space to be tested on."""


def fit_memory(
    measured: Measured,
    target: TargetDevice,
    *,
    name: str,
    ends: tuple[Choice, Choice],
    prefix: int,
    canonical: Callable[[Choice], Choice] = lambda schedule: schedule,
    further: Sequence[Choice] = (),
    varied: Varied | None = None,
    at_size: Callable[[Choice], int] | None = None,
    seed: int = 0,
    on_step: Callable[[str, float | None], None] | None = None,
) -> MemoryFit:
    """Measure about a dozen schedules, and ``further`` ones, fit, and predict four more that had no part in it.

    Args:
        measured: The meter.
        target: What it measures on.
        name: Of the model, for people.
        ends: The dense schedule and the least one.
        prefix: Tokens that are no patches.
        canonical: Of schedules that are the same to the model, the one to take.
        further: More to fit to, where other image sizes or fewer layers are in question.
        varied: What ``canonical`` does, with such genes drawn at random.
        at_size: Tokens of an image of a schedule's size; the model's own where it is not given.
        seed: Of the held-out schedules.
        on_step: Told what is being done and the share of the work that is done.

    Raises:
        TavtError: A process failed.
    """
    begin, rng = time.perf_counter(), np.random.default_rng(seed)
    dense = Configuration.of(ends[0]).schedule
    tokens, layers = dense.counts[0], dense.layers
    chosen = list(dict.fromkeys([*map(canonical, _schedules(ends, prefix)), *further]))
    drawn = random_schedules(tokens, layers, prefix, _HELD_OUT, rng)
    tests = [canonical(one) if varied is None else varied(one, rng) for one in drawn]
    size_of = at_size or (lambda schedule: tokens)
    jobs = [("end" if one in ends else "fit", one) for one in chosen] + [("held out", one) for one in tests]
    found = []
    for done, (purpose, schedule) in enumerate(jobs):
        if on_step is not None:
            on_step(f"memory of {done + 1} of {len(jobs)} schedules", done / len(jobs))
        found.append(measured(purpose, schedule))
    pairs = [(schedule, float(median(peaks))) for (_, schedule), peaks in zip(jobs, found, strict=True)]
    known, unseen = pairs[: len(chosen)], pairs[len(chosen) :]
    plain, genes = (
        np.array([terms(one, tokens, size_of(one)) for one, _ in known]) for terms in (memory_terms, gene_terms)
    )
    fixed, choosing, doubling, widest, smaller, absent = _coefficients(plain, genes, [peak for _, peak in known])
    bare = MemoryFit(
        target, name, tokens, layers, prefix, fixed, choosing, doubling, widest, smaller=smaller, absent=absent
    )

    def points(some: Sequence[tuple[Choice, float]]) -> tuple[MemoryPoint, ...]:
        return tuple(MemoryPoint(one, bare.predict(one, size_of(one)), peak) for one, peak in some)

    return replace(
        bare,
        points=points(known),
        held_out=points(unseen),
        repeated=max(max(peaks) - min(peaks) for peaks in found),
        seconds=round(time.perf_counter() - begin, 1),
    )


def _schedules(ends: tuple[Choice, Choice], prefix: int) -> list[Choice]:
    """The ends, tapers, and drops in one layer, in two, three and all: what the terms of a fit tell apart."""
    dense = Configuration.of(ends[0]).schedule
    tokens, layers = dense.counts[0], dense.layers
    least = max(prefix + 1, 2)
    half, most = max(least, tokens // 2), max(least, 3 * tokens // 4)
    early, late = layers // 4, layers // 2
    found = [
        *ends,
        *(TokenSchedule.taper(tokens, layers, ratio, prefix) for ratio in (0.1, 0.2, 0.4)),
        TokenSchedule((half,) * layers),
        TokenSchedule((most,) * layers),
        TokenSchedule((tokens,) * late + (least,) * (layers - late)),
        TokenSchedule((most,) * late + (half,) * (layers - late)),
        TokenSchedule((tokens,) * early + (most,) * (late - early) + (half,) * (layers - late - 1) + (least,)),
        TokenSchedule(tuple(max(least, tokens - 1 - layer) for layer in range(layers))),
    ]
    return found


def _coefficients(
    plain: NDArray[np.float64], genes: NDArray[np.float64], measured: Sequence[float]
) -> tuple[float, ...]:
    """Least squares on those terms that explain clearly more than chance would; on none the median alone.

    Token counts come in or stay out together, and so do the other genes: the effect of one must not let in the other.

    Args:
        plain: (schedules, 4), the terms of token counts, the first a constant.
        genes: (schedules, 2); those that no schedule has are left out.
        measured: Bytes, of each schedule.

    Source: the Bayesian information criterion, G. Schwarz, Estimating the dimension of a model (1978); 6 and more is
    strong evidence (Kass and Raftery, Bayes factors, 1995).
    """
    peaks, terms = np.array(measured), np.concatenate([plain, genes], axis=1)
    width = plain.shape[1]
    groups = [list(range(1, width)), (width + np.flatnonzero(genes.any(axis=0))).tolist()]
    chosen = [0]
    while groups:
        tried = [(_criterion_of(terms[:, [*chosen, *group]], peaks), group) for group in groups if group]
        best, group = min(tried, default=(math.inf, []))
        if _criterion_of(terms[:, chosen], peaks) - best < _EVIDENCE:
            break
        groups.remove(group)
        chosen += group
    if chosen == [0]:
        return float(np.median(peaks)), *(0.0 for _ in range(1, terms.shape[1]))
    found = np.zeros(terms.shape[1])
    found[chosen] = np.linalg.lstsq(terms[:, chosen], peaks, rcond=None)[0]
    return tuple(found.tolist())


def _criterion_of(terms: NDArray[np.float64], peaks: NDArray[np.float64]) -> float:
    """Of a fit to these terms; endless where there are too few schedules for them."""
    if len(peaks) <= terms.shape[1] + 2 and terms.shape[1] > 1:
        return math.inf
    return _criterion(terms @ np.linalg.lstsq(terms, peaks, rcond=None)[0] - peaks, terms.shape[1])


def _criterion(left: NDArray[np.float64], parameters: int) -> float:
    # A kilobyte is below what a process can be told by; without it an exact fit would be infinitely good.
    return len(left) * math.log(float((left**2).mean()) + 1e6) + parameters * math.log(len(left))

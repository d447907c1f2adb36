"""Ratios of two candidates of one interleaved run, paired by rounds, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tavt_kit.measurement import Measurement, PairedRatio, paired_ratio

__all__ = ["METHOD", "bootstrap_ratio"]

_RESAMPLES = 2000
"""The ends of a 95 % interval then lie within about 0.5 % of their percentiles."""

_LEAST = 6
"""Of fewer rounds the whole range is given: resampling cannot go beyond what was seen."""

METHOD = f"percentile bootstrap over the rounds, median of {_RESAMPLES} resamples"


def bootstrap_ratio(slow: Measurement, fast: Measurement, *, seed: int = 0) -> PairedRatio:
    """``slow`` over ``fast``: the median over the rounds of the ratio within each, as ``paired_ratio``.

    Rounds are resampled, not inferences: noise outlasts an inference, and the rounds are what is independent.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.

    Args:
        slow: The numerator.
        fast: The denominator.
        seed: Of the resampling.
    """
    found = paired_ratio(slow, fast)
    ratios = _ratios(slow.by_round(), fast.by_round())
    if len(ratios) < _LEAST:
        low, high, method = min(ratios), max(ratios), "range of the rounds, too few for an interval"
    else:
        drawn = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
        medians = np.median(np.asarray(ratios)[drawn], axis=1)
        low, high = (float(end) for end in np.percentile(medians, (2.5, 97.5)))
        method = METHOD
    return replace(found, low=min(low, found.value), high=max(high, found.value), method=method)


def _ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    return [x / y for x, y in zip(slow, fast, strict=False)]

"""Ratios of two candidates of one interleaved run, paired by rounds, with a bootstrap interval."""

from __future__ import annotations

from dataclasses import replace

from tavt_kit.core.block_bootstrap import DRAWS, LEAST_FOR_BLOCKS, LEAST_ROUNDS, median_interval
from tavt_kit.core.measurement import Measurement, PairedRatio, paired_ratio, round_ratios

__all__ = ["METHOD", "bootstrap_ratio"]

METHOD = (
    f"percentile bootstrap over rounds, from {LEAST_FOR_BLOCKS} rounds on over blocks of neighbouring ones; median of "
    f"{DRAWS} resamples"
)


def bootstrap_ratio(slow: Measurement, fast: Measurement, *, seed: int = 0) -> PairedRatio:
    """``slow`` over ``fast``: the median over the rounds of the ratio within each, as ``paired_ratio``.

    Rounds are resampled, not inferences, because noise outlasts an inference. Of fewer than ``LEAST_ROUNDS`` rounds
    the whole range is given.

    Args:
        slow: The numerator.
        fast: The denominator.
        seed: Of the resampling.
    """
    found = paired_ratio(slow, fast)
    ratios = round_ratios(slow, fast)
    if len(ratios) < LEAST_ROUNDS:
        low, high, method = min(ratios), max(ratios), "range of the rounds, too few for an interval"
    else:
        _, low, high = median_interval([ratios], lambda medians: medians[0], seed=seed)
        method = METHOD
    return replace(found, low=low, high=high, method=method)

"""Measuring on the target (tavt_kit.bench): interleaved latency runs, and the per-layer latency table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tavt_kit.bench.protocol import Protocol as Protocol
from tavt_kit.bench.protocol import bench as bench
from tavt_kit.bench.protocol import random_images as random_images
from tavt_kit.measurement import paired_ratio as paired_ratio

if TYPE_CHECKING:
    from tavt_kit.bench.layer_table import measure_table as measure_table

__all__ = ["Protocol", "bench", "measure_table", "paired_ratio", "random_images"]


def __getattr__(name: str) -> object:
    # The table takes models apart and needs torch; timing finished sessions does not.
    if name == "measure_table":
        from tavt_kit.bench.layer_table import measure_table

        return measure_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

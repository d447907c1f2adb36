"""Measuring on the target (tavt_kit.bench): interleaved latency runs, and the per-layer latency table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tavt_kit.bench.protocol import Protocol as Protocol
from tavt_kit.bench.protocol import bench as bench
from tavt_kit.bench.protocol import random_images as random_images
from tavt_kit.core.callable_module import make_callable
from tavt_kit.core.measurement import paired_ratio as paired_ratio

if TYPE_CHECKING:
    from tavt_kit.bench.latency_table import check_table as check_table
    from tavt_kit.bench.latency_table import measure_schedules as measure_schedules
    from tavt_kit.bench.latency_table import measure_table as measure_table

__all__ = ["Protocol", "bench", "check_table", "measure_schedules", "measure_table", "paired_ratio", "random_images"]


def __getattr__(name: str) -> Any:
    if name in ("check_table", "measure_schedules", "measure_table"):  # they need torch; timing finished sessions not
        return getattr(import_module("tavt_kit.bench.latency_table"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__)

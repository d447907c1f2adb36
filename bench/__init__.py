"""Measuring on the target (tavt_kit.bench): interleaved latency runs; ``bench.latency_table`` has the layers."""

from __future__ import annotations

from tavt_kit.bench.protocol import Protocol, bench, random_images
from tavt_kit.core.callable_module import make_callable
from tavt_kit.core.measurement import paired_ratio

__all__ = ["Protocol", "bench", "paired_ratio", "random_images"]

make_callable(__name__)

"""Peaks: the fastest this machine was seen to multiply matrices and to copy memory; what a model's speed is a share of.

peaks = measure_peaks(target)                      # once, before anything is timed; about 2 s and the imports
body["peaks"] = peaks.as_record()
share = peaks.share(2 * macs / seconds / 1e9, "bf16")     # None where that precision was not measured
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tavt_kit.bench.products import plain_clock, products
from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice
from tavt_kit.errors import MeasurementError

__all__ = ["Peaks", "measure_peaks"]

_ALL = ("torch", "openvino", "onnxruntime")

_LEAST_ROUNDS = 3

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Peaks(Record):
    """The best of a few seconds; a floating-point or integer operation is an addition or a multiplication.

    Args:
        processor: ``cpu``, or the device's name and number.
        threads: CPU threads used, or ``None`` for another processor.
        gflops: By precision: 1e9 operations a second in the fastest square product.
        by: By precision: the runtime that was the fastest.
        size: Rows of the matrices.
        copy_gbs: GB read and written a second when more is copied than the caches hold, by all the threads.
        cached_gbs: The same within one core's own cache, by one thread; ``None`` for another processor.
    """

    processor: str
    threads: int | None
    gflops: Mapping[str, float]
    by: Mapping[str, str]
    size: int
    copy_gbs: float | None
    cached_gbs: float | None

    def share(self, gflops: float, precision: str) -> float | None:
        """What part of the peak a speed is; ``None`` where that precision was not measured.

        A share above 1 is possible: a model's products may suit the machine better than squares do.
        """
        peak = self.gflops.get(precision)
        return None if peak is None else gflops / peak


def measure_peaks(
    target: TargetDevice, *, seconds: float = 2.0, runtimes: tuple[str, ...] = _ALL, size: int | None = None
) -> Peaks:
    """Measure the target's processor with its threads; runtime, precision and batch do not matter.

    All products and copies take turns, and of each the fastest counts: what disturbs can only slow.

    Args:
        target: Where.
        seconds: Aim for the measuring itself; every product runs at least three times.
        runtimes: Which may be tried; those not installed are left out. Fewer load quicker, and may miss the best.
        size: Rows of the matrices; more for more threads if not given.

    Raises:
        MeasurementError: Nothing that is installed multiplies on this processor.
    """
    target = target.resolved()
    size = size or _size(target)
    found = list(products(target, size, runtimes))
    if not found:
        raise MeasurementError(f"none of {', '.join(runtimes)} multiplies matrices on {target}; install one that does")
    with _copies(target) as copies:
        best = _best([*(one.run for one in found), *(run for run, _ in copies)], seconds)
    gflops, by = dict[str, float](), dict[str, str]()
    for one, took in zip(found, best, strict=False):
        speed = 2 * size**3 / took / 1e9
        if speed > gflops.get(one.precision, 0.0):
            gflops[one.precision], by[one.precision] = speed, one.runtime
    rates = [moved / took / 1e9 for (_, moved), took in zip(copies, best[len(found) :], strict=True)]
    whole, cached = (*rates, None, None)[:2]
    return Peaks(_name(target), target.threads, gflops, by, size, whole, cached)


def _name(target: TargetDevice) -> str:
    return "cpu" if target.is_cpu else f"{target.processor}:{target.index}"


def _size(target: TargetDevice) -> int:
    """So large that a product takes a millisecond or more: else what starts it would be in the time."""
    if not target.is_cpu:
        return 8192 if target.processor in ("cuda", "tensorrt") else 2048
    threads = target.threads or 1
    return 1024 if threads <= 4 else 2048 if threads <= 16 else 4096


def _best(runs: list[Callable[[], float]], seconds: float) -> list[float]:
    """The least seconds of each, in rounds; the first round warms up."""
    for run in runs:
        run()
    begin, rounds = time.perf_counter(), 0
    best = [float("inf")] * len(runs)
    while rounds < _LEAST_ROUNDS or time.perf_counter() - begin < seconds:
        best = [min(least, run()) for least, run in zip(best, runs, strict=True)]
        rounds += 1
    return best


Copy = tuple[Callable[[], float], int]
"""A copy's clock, and the bytes it reads and writes."""


@contextmanager
def _copies(target: TargetDevice) -> Iterator[list[Copy]]:
    """Copies in main memory and in cache; one in its own memory for CUDA, none for what cannot be told to copy."""
    if target.is_cpu:
        with ThreadPoolExecutor(target.threads or 1) as pool:
            yield [_large_copy(pool, target.threads or 1), _small_copy()]
    elif target.processor in ("cuda", "tensorrt"):
        yield [_cuda_copy(target)]
    else:
        yield []


def _large_copy(pool: ThreadPoolExecutor, threads: int) -> Copy:
    """Four times the last cache, in one slice a thread (numpy lets go of the interpreter's lock while it copies)."""
    count = max(64 * _MIB, min(4 * _cache("index3", 16 * _MIB), 512 * _MIB)) // 8
    source, destination = np.ones(count), np.zeros(count)
    edges = [count * part // threads for part in range(threads + 1)]
    slices = [(destination[a:b], source[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    return plain_clock(lambda: list(pool.map(lambda pair: np.copyto(*pair), slices))), 2 * source.nbytes


def _small_copy() -> Copy:
    """Both ends together in half of a core's own cache, many times over so that the clock has something to tell."""
    count, repeats = _cache("index2", 512 * 1024) // 32, 200
    source, destination = np.ones(count), np.zeros(count)

    def call() -> None:
        for _ in range(repeats):
            np.copyto(destination, source)

    return plain_clock(call), 2 * source.nbytes * repeats


def _cuda_copy(target: TargetDevice) -> Copy:
    import torch

    from tavt_kit.runtimes.on_torch import torch_clock, torch_device

    place = TargetDevice("torch", "cuda", target.index)
    source = torch.ones(256 * _MIB, device=torch_device(place))
    destination = torch.empty_like(source)
    clock = torch_clock(lambda: destination.copy_(source), place)
    return lambda: clock() / 1e3, 2 * source.nbytes


def _cache(index: str, otherwise: int) -> int:
    """Bytes of a cache of CPU 0."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu0/cache/{index}/size").read_text(encoding="ascii").strip()
        return int(text.removesuffix("K")) * 1024
    except (OSError, ValueError):
        return otherwise

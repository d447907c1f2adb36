"""Peaks: the fastest that this machine was seen to multiply matrices; speeds are shares of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tavt_kit.core.codec import Record
from tavt_kit.core.device import TargetDevice, read_text
from tavt_kit.errors import MeasurementError

_ALL = ("torch", "openvino")
_LEAST_ROUNDS = 3
_MIB = 2**20
_LEVELS = 256  # Of an 8 bit number

Array = npt.NDArray[np.float32]

Product = tuple[str, str, Callable[[], float]]
"""One way to multiply two square matrices: its runtime, the precision that it executes, its milliseconds."""


@dataclass(frozen=True, slots=True)
class Peaks(Record):
    """The best of a few seconds; a floating-point or integer operation is an addition or a multiplication.

    Args:
        processor: ``cpu``, or the device's name and number.
        threads: CPU threads used, or ``None`` for another processor.
        gflops: By precision: 1e9 operations a second in the fastest square product.
        by: By precision: the runtime that was the fastest.
        size: Rows of the matrices.
        copy_gbs: GB read and written a second in a copy of 1 GiB on a CUDA device; ``None`` for other processors.
    """

    processor: str
    threads: int | None
    gflops: Mapping[str, float]
    by: Mapping[str, str]
    size: int
    copy_gbs: float | None


def measure_peaks(
    target: TargetDevice, *, seconds: float = 2.0, runtimes: tuple[str, ...] = _ALL, size: int | None = None
) -> Peaks:
    """Measure the target's processor with its threads; runtime, precision and batch do not matter.

    All products take turns, and of each the fastest counts: what disturbs can only slow.

    Args:
        seconds: Aim for the measuring itself; every product runs at least three times.
        runtimes: Which may be tried; those not installed are left out. Fewer load quicker, and may miss the best.
        size: Rows of the matrices; more for more threads if not given, so that a product takes a millisecond or more.

    Raises:
        MeasurementError: Nothing that is installed multiplies on this processor.
    """
    target = target.resolved()
    threads = target.threads or 1
    if size is None and target.is_cpu:
        size = 1024 if threads <= 4 else 2048 if threads <= 16 else 4096
    elif size is None:
        size = 8192 if target.processor in ("cuda", "tensorrt") else 2048
    found = list(products(target, size, runtimes))
    if not found:
        raise MeasurementError(f"none of {', '.join(runtimes)} multiplies matrices on {target}; install one that does")
    copy, moved = _copy(target)
    runs = [*(run for _, _, run in found), *([copy] if copy else [])]
    for run in runs:  # the first round warms up
        run()
    begin, rounds, best = time.perf_counter(), 0, [float("inf")] * len(runs)
    while rounds < _LEAST_ROUNDS or time.perf_counter() - begin < seconds:
        best = [min(least, run()) for least, run in zip(best, runs, strict=True)]
        rounds += 1
    gflops, by = dict[str, float](), dict[str, str]()
    for (runtime, precision, _), took in zip(found, best, strict=False):
        speed = 2 * size**3 / took / 1e6
        if speed > gflops.get(precision, 0.0):
            gflops[precision], by[precision] = speed, runtime
    name = "cpu" if target.is_cpu else f"{target.processor}:{target.index}"
    return Peaks(name, target.threads, gflops, by, size, moved / best[-1] / 1e6 if copy else None)


def _copy(target: TargetDevice) -> tuple[Callable[[], float] | None, int]:
    """The milliseconds of a copy in a CUDA device's memory, and its bytes; None for other processors."""
    if target.processor not in ("cuda", "tensorrt"):
        return None, 0
    import torch

    from tavt_kit.runtimes.on_torch import torch_clock, torch_device

    own = TargetDevice("torch", "cuda", target.index)
    source = torch.ones(256 * _MIB, device=torch_device(own))
    destination = torch.empty_like(source)
    return torch_clock(lambda: destination.copy_(source), own), 2 * source.nbytes


def cache_bytes(index: str, otherwise: int) -> int:
    """Bytes of a cache of CPU 0."""
    text = read_text(Path(f"/sys/devices/system/cpu/cpu0/cache/{index}/size")).removesuffix("K")
    return int(text) * 1024 if text.isdecimal() else otherwise


def products(target: TargetDevice, size: int, runtimes: tuple[str, ...]) -> Iterator[Product]:
    """Every product that the target's processor can be given."""
    makers = {"torch": _by_torch, "openvino": _by_openvino}
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    for runtime in runtimes:
        if find_spec(runtime) is not None:
            yield from makers[runtime](target, left, right)


def _by_torch(target: TargetDevice, left: Array, right: Array) -> Iterator[Product]:
    import torch
    import torch.nn.functional as F

    from tavt_kit.runtimes.on_torch import torch_clock, torch_device

    if target.processor not in ("cpu", "cuda", "tensorrt"):
        return
    own = TargetDevice("torch", "cpu" if target.is_cpu else "cuda", target.index, target.threads)
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16}
    if not own.is_cpu:
        kinds["f16"] = torch.float16
    for precision, dtype in kinds.items():
        rows, weight = (torch.from_numpy(array).to(torch_device(own), dtype) for array in (left, right))
        yield "torch", precision, torch_clock(partial(F.linear, rows, weight), own)


def _by_openvino(target: TargetDevice, left: Array, right: Array) -> Iterator[Product]:
    from tavt_kit.runtimes.available import name_device, openvino_core
    from tavt_kit.runtimes.on_openvino import compile_for, executed_precision, request_clock

    if target.processor not in ("cpu", "gpu", "npu"):
        return
    able = openvino_core().get_property(name_device(target), "OPTIMIZATION_CAPABILITIES")
    words = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}
    for precision in (word for word, name in words.items() if name in able):
        own = TargetDevice("openvino", target.processor, target.index, target.threads, precision)
        compiled = compile_for(_openvino_graph(left.shape, right, int8=precision == "int8"), own)
        if executed_precision(compiled) == precision:
            yield "openvino", precision, request_clock(compiled, [left])


def _openvino_graph(shape: tuple[int, ...], right: Array, *, int8: bool) -> Any:
    """left @ right.T; with both factors quantised as NNCF does it, where ``int8``."""
    import openvino

    ops: Any = openvino.opset13
    entry = ops.parameter(list(shape), np.float32)
    weights = ops.constant(right)
    if int8:
        most, scale = np.float32(4.0), np.float32(np.abs(right).max() / 127)
        limits = (-most, most * np.float32(127 / 128)) * 2
        small = ops.constant(np.round(right / scale).astype(np.int8))
        weights = ops.multiply(ops.convert(small, np.float32), ops.constant(scale))
        product = ops.matmul(ops.fake_quantize(entry, *limits, _LEVELS), weights, False, True)
    else:
        product = ops.matmul(entry, weights, False, True)
    return openvino.Model([product], [entry], "product")

"""Square matrix products on every runtime, each with a clock: what the machine's peak is measured by.

Weights are constants and the other factor comes in as float, as in the linear layers of a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from tavt_kit.core.device import TargetDevice

__all__ = ["Product", "products"]

Array = npt.NDArray[np.float32]

_LEVELS = 256
"""Of an 8 bit number."""


@dataclass(frozen=True, slots=True)
class Product:
    """One way to multiply two square matrices.

    Args:
        runtime: By what.
        precision: Executed: ``f32 f16 bf16 int8``.
        run: Multiplies once; its seconds.
    """

    runtime: str
    precision: str
    run: Callable[[], float]


def products(target: TargetDevice, size: int, runtimes: tuple[str, ...]) -> Iterator[Product]:
    """Every product that the target's processor can be given.

    Args:
        target: Its processor and threads; runtime, precision and batch do not matter.
        size: Rows of the matrices.
        runtimes: Which may be used; one that is not installed is left out.
    """
    makers = {"torch": _by_torch, "openvino": _by_openvino, "onnxruntime": _by_onnxruntime}
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
    place = TargetDevice("torch", "cpu" if target.is_cpu else "cuda", target.index, target.threads)
    kinds = {"f32": torch.float32, "bf16": torch.bfloat16}
    if not place.is_cpu:
        kinds["f16"] = torch.float16
    for precision, dtype in kinds.items():
        rows, weight = (torch.from_numpy(array).to(torch_device(place), dtype) for array in (left, right))
        clock = torch_clock(_bound(F.linear, rows, weight), place)
        yield Product("torch", precision, _seconds(clock))


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _by_openvino(target: TargetDevice, left: Array, right: Array) -> Iterator[Product]:
    from tavt_kit.runtimes.available import device_of
    from tavt_kit.runtimes.on_openvino import compile_for, executed_precision, request_clock
    from tavt_kit.runtimes.openvino_core import openvino_core

    if target.processor not in ("cpu", "gpu", "npu"):
        return
    able = openvino_core().get_property(device_of(target), "OPTIMIZATION_CAPABILITIES")
    words = {"f32": "FP32", "f16": "FP16", "bf16": "BF16", "int8": "INT8"}
    for precision in (word for word, name in words.items() if name in able):
        place = TargetDevice("openvino", target.processor, target.index, target.threads, precision)
        compiled = compile_for(_openvino_graph(left.shape, right, int8=precision == "int8"), place)
        if executed_precision(compiled) == precision:
            yield Product("openvino", precision, _seconds(request_clock(compiled, [left])))


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


def _by_onnxruntime(target: TargetDevice, left: Array, right: Array) -> Iterator[Product]:
    """f32, and 8 bit integers; the graphs need the onnx package, which an edge box may not have."""
    if find_spec("onnx") is None or not target.is_cpu:
        return
    from tavt_kit.runtimes.on_onnxruntime import open_session, run_clock

    place = TargetDevice("onnxruntime", "cpu", threads=target.threads)
    yield Product("onnxruntime", "f32", _seconds(run_clock(open_session(_onnx_graph(right), place), [left])))
    signed = np.clip(np.round(right * 32), -127, 127).astype(np.int8)
    unsigned = np.clip(np.round(left * 32) + 128, 0, 255).astype(np.uint8)
    yield Product("onnxruntime", "int8", _seconds(run_clock(open_session(_onnx_graph(signed), place), [unsigned])))


def _onnx_graph(right: npt.NDArray[Any]) -> bytes:
    """left @ right; of 8 bit integers where ``right`` is of such."""
    from onnx import TensorProto, helper, numpy_helper

    small = right.dtype == np.int8
    kinds = (TensorProto.UINT8, TensorProto.INT32) if small else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if small else "MatMul", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", kinds[0], right.shape)],
        [helper.make_tensor_value_info("product", kinds[1], right.shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    written: bytes = model.SerializeToString()
    return written


def _seconds(clock: Callable[[], float]) -> Callable[[], float]:
    """From a clock in milliseconds."""
    return lambda: clock() / 1e3


def plain_clock(call: Callable[[], object]) -> Callable[[], float]:
    """Seconds of a call that is over when it returns."""

    def run() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return run

"""Multiply-adds by counting: one traced pass through fvcore, an independent check of ``models/macs.py``.

fvcore counts nothing for fused attention and five per element for a layer norm; both are mended here. An operator
it has never heard of raises, unless it is known to multiply no matrices.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import Tensor, nn

from tavt_kit.errors import UnsupportedBackbone

__all__ = ["count_by_tracing"]

_NORMS = ("layer_norm", "batch_norm", "group_norm", "rms_norm", "instance_norm")
_FREE = {
    *("add", "add_", "sub", "mul", "mul_", "div", "neg", "exp", "pow", "rsqrt", "rsub", "mean", "sum", "max"),
    *("softmax", "gelu", "silu", "sigmoid", "tanh", "relu", "elu", "erf", "sqrt", "log", "abs", "sign", "log2"),
    *("sort", "argsort", "topk", "arange", "index_select", "index", "gather", "scatter", "cat", "stack", "pad"),
    *("expand", "expand_as", "repeat", "repeat_interleave", "type_as", "embedding", "sin", "cos", "masked_fill"),
    *("bernoulli_", "dropout", "feature_dropout", "amax", "argmax", "clone", "copy_", "broadcast_tensors", "meshgrid"),
    *("linspace", "zeros", "ones", "empty", "full", "div_", "rms_norm", "flip", "roll", "tile", "square"),
    *("chunk", "split", "unbind", "unflatten", "new_full", "zeros_like", "ones_like", "index_put_", "where"),
    *("log_softmax", "logsumexp", "max_pool2d", "ceil", "reshape_as", "scatter_add"),
    *("hardsigmoid", "hardsigmoid_", "hardswish", "hardswish_", "hardtanh", "hardtanh_", "relu_", "sigmoid_", "silu_"),
    *("__or__", "__and__", "lt", "gt", "eq", "linalg_vector_norm"),
}


def count_by_tracing(module: nn.Module, images: Tensor) -> int:
    """Multiply-adds that one pass of ``module`` over ``images`` (B, 3, H, W) executes, all B images together.

    Raises:
        UnsupportedBackbone: The pass holds an operator whose cost is not known.
    """
    from fvcore.nn import FlopCountAnalysis

    counter = FlopCountAnalysis(module, images)
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    for norm in _NORMS:
        counter.set_op_handle(f"aten::{norm}", _nothing)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    quiet = logging.getLogger("fvcore.nn.jit_analysis")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        total = int(counter.total())
        unknown = {name.removeprefix("aten::") for name in counter.unsupported_ops()} - _FREE
    finally:
        quiet.setLevel(level)
    if unknown:
        raise UnsupportedBackbone(f"the cost of {', '.join(sorted(unknown))} is not known, so the pass is not counted")
    return total


def _nothing(inputs: list[Any], outputs: list[Any]) -> int:
    """A norm: not counted by the executed rule. (A handle of None would leave fvcore's own in place.)"""
    return 0


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """q (B, H, m, d), k (B, H, n, d), v (B, H, n, e): m * n * (d + e) for each of the B * H maps."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return int(math.prod(q[:-2]) * q[-2] * k[-2] * (q[-1] + v[-1]))

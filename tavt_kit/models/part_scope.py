"""Names the parts of a model in the graph that torch traces of it, so that a runtime's profile can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def part_scope(name: str, module: nn.Module | None = None) -> AbstractContextManager[None]:
    """While torch traces a graph: the nodes made here are named after this part. Nothing at other times.

    Half-blocks are made of a layer's own children, so that the layer itself, as a module, is never called, and what
    bare functions do in it would be named after nothing.

    Args:
        name: For torch's tracing ONNX exporter, which names a node by the modules that are called, each by the end of
            its path (``norm1``) and not by all of it.
        module: That holds the part's weights; for other tracers, which know modules alone.
    """
    if not torch._C._get_tracing_state():
        return nullcontext()
    if torch.onnx.is_in_onnx_export():
        return _pushed(f"tavt_kit::{name}")  # it wants a class before the name
    known: Any = torch.jit._trace._trace_module_map  # none where a tracer (fvcore's) has a way of its own
    path = None if known is None else known.get(module)
    return nullcontext() if path is None else _pushed(path)


@contextmanager
def _pushed(scope: str) -> Iterator[None]:
    tracing = torch._C._get_tracing_state()
    tracing.push_scope(scope)
    try:
        yield
    finally:
        tracing.pop_scope()

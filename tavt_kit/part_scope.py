"""Names the parts of a model in the ONNX graph that torch traces of it, so that a profile of it can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["part_scope"]


def part_scope(name: str) -> AbstractContextManager[None]:
    """While torch's tracing exporter writes ONNX: the nodes made here carry this name. Nothing at other times.

    Half-blocks are made of a layer's own children, so that the layer itself, as a module, is never called; and this
    exporter names a node by the modules that are called, each by the end of its path (``norm1``), not by its whole
    path, as OpenVINO does. Any other tracer would look in vain for a module of our name.
    """
    if torch._C._get_tracing_state() and torch.onnx.is_in_onnx_export():
        return _pushed(name)
    return nullcontext()


@contextmanager
def _pushed(name: str) -> Iterator[None]:
    tracing = torch._C._get_tracing_state()
    tracing.push_scope(f"tavt_kit::{name}")  # the exporter wants a class before the name
    try:
        yield
    finally:
        tracing.pop_scope()

"""Lets timm be imported beside a CPU-only torch.

timm imports torchvision, whose wheel on the package index brings native operators built for a CUDA torch. Beside a
CPU-only torch they do not load, and torchvision's import then fails at the fake kernels it registers for operators
nobody declared. Declaring those schemas first is enough: nothing here calls the operators themselves.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

__all__ = ["declare_missing_ops"]

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: torch.library.Library | None = None  # a Library's declarations live as long as the object


def declare_missing_ops() -> bool:
    """Declare torchvision's missing operators; safe to call twice.

    Returns:
        Whether anything was declared: False where torchvision is whole, absent, or was mended before.
    """
    global _declared
    if _declared is not None or _is_whole():
        return False
    _declared = library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS.values():
        library.define(schema)  # type: ignore[no-untyped-call]
    return True


def _is_whole() -> bool:
    """Whether torchvision is absent, or its native operators load into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError):
            return False
    return all(torch._C._dispatch_has_kernel(f"torchvision::{name}") for name in _SCHEMAS)

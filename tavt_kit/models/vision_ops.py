"""Lets timm be imported beside a CPU-only torch.

timm imports torchvision, whose wheel on the package index brings native operators built for a CUDA torch. Beside a
CPU-only torch they do not load, and torchvision's import then fails at the fake kernels that its
``_meta_registrations.py`` registers for operators nobody declared. Declaring those schemas first is enough: nothing
here calls the operators themselves.
"""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a Library's declarations live as long as the object


def declare_missing_ops() -> bool:
    """Declare torchvision's missing operators, and say whether any was: not where it is whole, absent, or mended."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for file in Path(spec.origin).parent.glob("_C*"):
        if file.name.endswith(tuple(EXTENSION_SUFFIXES)):
            # As its own import would; one that was built for another torch is the case this module is for.
            with suppress(OSError, RuntimeError):
                torch.ops.load_library(str(file))  # type: ignore[no-untyped-call]
    # torch knows a schema from torchvision itself, from an earlier call, or from somebody who mends as we do.
    missing = [name for name in _SCHEMAS if not torch._C._jit_get_schemas_for_operator(f"torchvision::{name}")]
    if not missing:
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in missing:
        library.define(_SCHEMAS[name])  # type: ignore[no-untyped-call]
    _declared.append(library)
    return True

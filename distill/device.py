"""What a training run computes on: a device, and the precision of its matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tavt_kit.errors import TrainingError
from tavt_kit.runtimes.on_torch import DTYPES, is_bf16_faster

_NAMES = {"fp32": "f32", "float32": "f32", "bfloat16": "bf16", "fp16": "f16", "float16": "f16"}


def choose_device(text: str | None) -> torch.device:
    """``None`` or ``"auto"``: a CUDA GPU if there is one, else the CPU; TrainingError for a device not here."""
    if text is None or text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"training runs on auto, cpu or cuda[:N], got {text!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"{text} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use `device` cpu"
        )
    return device


def choose_precision(text: str | None, device: torch.device) -> str:
    """``"f32"``, ``"bf16"`` or ``"f16"``; ``None`` is bf16 where the processor multiplies it faster, else f32."""
    if text is None:
        return "bf16" if is_bf16_faster(device) else "f32"
    name = _NAMES.get(text, text)
    if name not in DTYPES:
        raise TrainingError(f"training runs in {' or '.join(DTYPES)}, got {text!r}")
    return name


def evaluation_precision(precision: str) -> str:
    """What a model trained in ``precision`` is evaluated in: float16 may overflow without its loss scaling's help."""
    return "f32" if precision == "f16" else precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in the 16 bits asked for, or everything as it is."""
    if precision == "f32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])

"""tavt_kit.distill: fine-tuning and in-place distillation with patch drop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tavt_kit.distill.step import SandwichRule, sandwich_step

_HOMES = {"SandwichRule": "step", "sandwich_step": "step"}

__all__ = ["SandwichRule", "sandwich_step"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tavt_kit.distill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tavt_kit.distill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

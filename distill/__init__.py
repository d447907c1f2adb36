"""tavt_kit.distill: fine-tuning and in-place distillation with patch drop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tavt_kit.core.callable_module import make_callable

if TYPE_CHECKING:
    from tavt_kit.distill.fine_tune import train
    from tavt_kit.distill.in_place import distill
    from tavt_kit.distill.options import DataOptions, OptimizerOptions, TrainingOptions
    from tavt_kit.distill.recipes import DistillRecipe, TrainRecipe, distill_recipe, train_recipe
    from tavt_kit.distill.sandwich import SandwichRule, sandwich_step

_HOMES = {
    "DistillRecipe": "recipes",
    "OptimizerOptions": "options",
    "DataOptions": "options",
    "TrainingOptions": "options",
    "SandwichRule": "sandwich",
    "TrainRecipe": "recipes",
    "distill": "in_place",
    "distill_recipe": "recipes",
    "sandwich_step": "sandwich",
    "train": "fine_tune",
    "train_recipe": "recipes",
}

__all__ = [
    "DistillRecipe",
    "OptimizerOptions",
    "DataOptions",
    "TrainingOptions",
    "SandwichRule",
    "TrainRecipe",
    "distill",
    "distill_recipe",
    "sandwich_step",
    "train",
    "train_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tavt_kit.distill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tavt_kit.distill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


make_callable(__name__)

"""tavt_kit.distill: fine-tuning and in-place distillation with patch drop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tavt_kit.core.callable_module import make_callable

if TYPE_CHECKING:
    from tavt_kit.distill.fine_tune import train
    from tavt_kit.distill.in_place import distill
    from tavt_kit.distill.options import DataOptions, OptimizerOptions, TrainingOptions
    from tavt_kit.distill.recipes import DistillRecipe, TrainRecipe, distill_recipe, train_recipe
    from tavt_kit.distill.sandwich import SandwichRule, sandwich_step

_HOMES = {
    **dict.fromkeys(("DistillRecipe", "TrainRecipe", "distill_recipe", "train_recipe"), "recipes"),
    **dict.fromkeys(("DataOptions", "OptimizerOptions", "TrainingOptions"), "options"),
    **dict.fromkeys(("SandwichRule", "sandwich_step"), "sandwich"),
    "distill": "in_place",
    "train": "fine_tune",
}

__all__ = [
    "DataOptions", "DistillRecipe", "OptimizerOptions", "SandwichRule", "TrainRecipe", "TrainingOptions", "distill",
    "distill_recipe", "sandwich_step", "train", "train_recipe",
]  # fmt: skip

make_callable(__name__)

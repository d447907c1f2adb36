"""Which of the systems a model belongs to, and that a recipe made for one of them is not used on another."""

from __future__ import annotations

from tavt_kit.distill.preset import recipe_names
from tavt_kit.distill.recipe import FAMILIES, TrainRecipe
from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.ffvt import Ffvt
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.backbones.transfg import TransFg
from tavt_kit.models.backbones.vitae import Vitae
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["check_family", "family_of"]

_CLASSES = {Ffvt: "ffvt", TransFg: "transfg", MixVitHybrid: "mixvit_hybrid", Pim: "pim"}


def family_of(model: AdaptiveViT) -> str:
    """One of ``recipe.FAMILIES``; every timm ViT, whatever its attention, is a plain one."""
    bare = model.bare
    if isinstance(bare, Vitae):
        return "vitae" if bare.version == 1 else "vitaev2"
    return next((name for kind, name in _CLASSES.items() if isinstance(bare, kind)), "vit")


def check_family(recipe: TrainRecipe, model: AdaptiveViT) -> None:
    """Refuse a recipe of another family.

    Raises:
        TrainingError: It is one.
    """
    own = family_of(model)
    if recipe.family not in (None, own):
        fitting = ", ".join(recipe_names(own))
        raise TrainingError(
            f"the recipe {recipe.name} is for {FAMILIES[str(recipe.family)]}, but the model is {FAMILIES[own]}; take "
            f"one of {fitting}, or another model"
        )

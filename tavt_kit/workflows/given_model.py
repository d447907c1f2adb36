"""A model as a workflow is given it: a run folder, a name with weights, or one that is wrapped already."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tavt_kit.core.model_card import ModelCard
from tavt_kit.errors import DataError, ParameterError

if TYPE_CHECKING:
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["card_of", "given_model"]


def given_model(
    model: str | os.PathLike[str] | AdaptiveViT,
    *,
    weights: str = "hub",
    image_size: int | None = None,
    seed: int = 0,
    score: str | None = None,
    pool: str | None = None,
    reduction: str | None = None,
) -> AdaptiveViT:
    """The model with its card, in eval mode; a wrapped one is wrapped again, so that its own options stay.

    Args:
        model: A run folder, a timm model's name, or a wrapped model, whose weights are shared.
        weights: Weights of a model given by name, as ``build`` takes them.
        image_size: Pixels a side, of a model given by name or folder.
        seed: Seed of random weights.
        score: What ranks the tokens, instead of the model's own.
        pool: Which tokens a pooling head sees, instead of the model's own.
        reduction: What becomes of the tokens that a layer does not keep, instead of the model's own.

    Raises:
        DataError: A wrapped model has no card.
        ParameterError: A wrapped model is asked for at another image size.
        TavtError: The model cannot be read or built, as by ``open_model``.
    """
    if isinstance(model, str | os.PathLike):
        from tavt_kit.checkpoints import open_model

        return open_model(
            os.fspath(model),
            weights=weights,
            image_size=image_size,
            seed=seed,
            score=score,
            pool=pool,
            reduction=reduction,
        ).eval()
    card = card_of(model)
    if image_size is not None:
        raise ParameterError(
            f"a wrapped model keeps its image size, got `image_size` {image_size}; leave it out, or give the run folder"
        )
    other = model.again()
    other.score, other.pool = score or model.score, pool or model.pool
    other.reduction, other.schedule = reduction or model.reduction, model.schedule
    other.card = replace(card, score=other.score, pool=other.pool, reduction=other.reduction)
    return other.eval()


def card_of(model: AdaptiveViT) -> ModelCard:
    """The model's card.

    Raises:
        DataError: It has none, so that nobody knows its classes.
    """
    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise DataError("this model has no card with its classes and preprocessing; take one from load_model")
    return card

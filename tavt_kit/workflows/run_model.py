"""The model that a workflow is given, its images, and the schedule that is meant: what most workflows begin with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from tavt_kit.core.configuration import Choice, Configuration
from tavt_kit.errors import DataError, ParameterError
from tavt_kit.workflows.picked import model_for, read_front, schedule_for

if TYPE_CHECKING:
    from tavt_kit.core.model_card import ModelCard
    from tavt_kit.core.progress import Progress
    from tavt_kit.data import ImageSet
    from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["card_of", "folder_of", "given_model", "images_for", "located", "model_at", "model_of"]


@overload
def located(thing: str | os.PathLike[str]) -> str | Path: ...
@overload
def located(thing: str | os.PathLike[str] | AdaptiveViT) -> str | Path | AdaptiveViT: ...
def located(thing: object) -> object:
    """The path of what lies somewhere (a finished search, an exported file); anything else as it is."""
    return Path(thing) if isinstance(thing, os.PathLike) else thing


def model_of(run: Path | str | AdaptiveViT) -> AdaptiveViT:
    """The wrapped model itself, or the one of a run folder.

    Raises:
        RecordError: There is no model card.
        CheckpointError: The weights are missing, damaged, or not those of the card.
    """
    if isinstance(run, Path | str):
        from tavt_kit.checkpoints import load_model

        return load_model(run)
    return run


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
    from tavt_kit.core.model_card import ModelCard

    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise DataError("this model has no card with its classes and preprocessing; take one from load_model")
    return card


def folder_of(run: Path | str | AdaptiveViT) -> Path | None:
    """The run's folder; None of a model that was given itself."""
    if not isinstance(run, Path | str):
        return None
    path = Path(run)
    return path if path.is_dir() else path.parent


def images_for(run: Path | str | AdaptiveViT, data: str | Path | None) -> ImageSet:
    """The images and the split that a run was made with, or those given.

    Args:
        run: The run.
        data: What the user says the data is, or None. It may be where the images were moved to.

    Raises:
        RecordError: The run has no split, and no data is given.
        DataError: ``data`` is another data set, or the run's images are gone.
    """
    from tavt_kit.data import load_images
    from tavt_kit.data.inherited import inherited_images

    folder, spec = folder_of(run), None if data is None else str(data)
    if folder is not None:
        return inherited_images(folder, spec)
    if spec is None:
        raise DataError("a model that lies in no run folder does not say on which data it was made; give `data`")
    return load_images(spec)


def model_at(
    run: Path | str | AdaptiveViT, schedule: str | Choice | None, progress: Progress
) -> tuple[AdaptiveViT, Configuration]:
    """A run's model at the schedule that is meant: the given one, else what a search in that folder chose.

    A choice may be of another image size or score, and is taken whole. Without a search the model keeps the schedule
    it has: the dense one, unless its card names another.

    Args:
        run: A run folder, or a wrapped model.
        schedule: A schedule or its text, such as ``taper:0.2``; ``dense`` takes no notice of what was chosen.
        progress: Told which schedule a search's folder made it.

    Raises:
        ScheduleError: The schedule cannot be read, or does not fit the model.
        RecordError: There is no model, or the search's record cannot be read.
        CheckpointError: The weights are damaged, or do not fit the chosen image size.
    """
    model, folder = model_of(run), folder_of(run)
    if folder is None:
        model = given_model(model)  # the caller's own keeps its schedule
    if schedule is None:
        front = None if folder is None else read_front(folder)
        if front is None:
            return model, Configuration(model.schedule)
        if front.get("chosen") is None:
            progress.say(f"the search in {folder} chose no schedule, so the model runs under {model.schedule}")
            return model, Configuration(model.schedule)
    meant = Configuration.of(schedule_for(folder, model, schedule, None))
    model = model_for(folder, model, {"": meant})
    model.schedule = meant.schedule
    runs = replace(meant, precision=None)  # in which precision it runs is the target's matter
    if schedule is None:
        progress.say(f"{folder} runs under {runs}, which its search chose; the schedule dense drops nothing")
    return model, runs

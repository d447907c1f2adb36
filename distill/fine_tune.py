"""Adapting a pretrained model to data: the head alone on cached features, then the last blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tavt_kit.adaptive import AdaptiveViT
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.distill.common import asked_of, card_of, check_batch, loop_record, pictures_of, save_trained, settle
from tavt_kit.distill.evaluate import climb, features
from tavt_kit.distill.loop import SAVE_SECONDS, run_loop
from tavt_kit.distill.optimiser import freeze
from tavt_kit.distill.pictures import Pictures
from tavt_kit.distill.precision import choose_device
from tavt_kit.distill.probe import Probe, fit_probe, set_head
from tavt_kit.distill.progress import Progress, Silent
from tavt_kit.distill.recipe import TrainRecipe
from tavt_kit.distill.run_folder import RunFolder
from tavt_kit.distill.state import has_state, remove_state
from tavt_kit.distill.step import sandwich_step
from tavt_kit.errors import TrainingError
from tavt_kit.measurement import Accuracy

__all__ = ["train"]


def train(
    model: AdaptiveViT,
    images: ImageSet,
    out: Path | str,
    recipe: TrainRecipe | None = None,
    *,
    device: str | None = None,
    fresh: bool = False,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Fit a model to a data set; the dense network, nothing dropped.

    ``probe`` fits the head to cached features, its penalty chosen by ``val`` accuracy. ``finetune`` does the same and
    then trains the last blocks with the head by cross-entropy.

    Args:
        model: From ``open_model``, with a head of the data's classes; trained in place.
        images: The data.
        out: The run folder; one that was interrupted is continued.
        recipe: A probe by default.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` takes a GPU if there is one.
        fresh: Start again whatever ``out`` holds.
        allow_unreadable: Pictures of ``val`` that may be skipped.
        progress: Watches.
        save_seconds: Time between two saved states.

    Returns:
        The run's record, as in ``run.json``.

    Raises:
        TavtError: As the parts: data, recipe, output, divergence.
        KeyboardInterrupt: The state was saved; the same call continues it.
    """
    recipe, progress = recipe or TrainRecipe(), progress or Silent()
    card = card_of(model, images)
    model.to(choose_device(device))
    recipe = _settled(recipe, model, images)
    run = RunFolder(Path(out), "train", asked_of(model, card, images, recipe.as_record()), fresh=fresh)
    inherit_split(run.folder, images)
    if run.done:
        return run.body
    pictures = pictures_of(images, card, limit=recipe.limit, allow_unreadable=allow_unreadable)
    precision = str(recipe.optimisation.precision)
    if not ("probe" in run.results and has_state(run.folder)):  # else the saved state holds the head, and more
        _probe(run, model, pictures, len(images.classes), precision, progress)
    if recipe.name == "finetune":
        loop = _finetune(run, model, pictures[0], recipe, progress, save_seconds)
        dense = climb(model, pictures[1], "val", ("dense",), precision=precision, progress=progress, what="evaluate")
        results = {"loop": loop, "val": dense[0].accuracy.as_record()}
    else:
        results = {"val": run.results["probe"]["accuracy"]}
    how = "head fitted" if recipe.name == "probe" else f"head and last {recipe.blocks} blocks fine-tuned"
    save_trained(run.folder, model, card, images, how)
    run.finish(**results, precision=precision)
    remove_state(run.folder)
    return run.body


def _settled(recipe: TrainRecipe, model: AdaptiveViT, images: ImageSet) -> TrainRecipe:
    if not 1 <= recipe.blocks <= model.layers:
        raise TrainingError(f"1 to {model.layers} of the model's blocks can be trained, got {recipe.blocks}")
    if recipe.name == "finetune":
        check_batch(images, recipe.optimisation.batch, recipe.limit)
    frozen = model.layers - recipe.blocks
    return replace(recipe, optimisation=settle(recipe.optimisation, model, card_of(model, images), freeze=frozen))


def _probe(
    run: RunFolder,
    model: AdaptiveViT,
    pictures: tuple[Pictures, Pictures],
    classes: int,
    precision: str,
    progress: Progress,
) -> None:
    """Fit the head and put it into the model; without a result recorded so far, the result too."""
    train, val = pictures
    progress.stage("features", len(train) + len(val))
    seen = [features(model, split, precision=precision, progress=progress) for split in pictures]
    fitted = fit_probe(seen[0], train.labels, seen[1], val.labels, classes)
    set_head(model, fitted.weight, fitted.bias)
    run.note(
        pictures={"train": len(train), "val": len(val), "skipped": val.skipped},
        probe=_probe_record(fitted, val.labels),
    )


def _probe_record(probe: Probe, labels: NDArray[np.int64]) -> dict[str, Any]:
    accuracy = Accuracy.of_counts(probe.val_correct, len(labels), split="val")
    tried = [{"penalty": penalty, "val": share} for penalty, share in probe.tried]
    return {"penalty": probe.penalty, "accuracy": accuracy.as_record(), "tried": tried}


def _finetune(
    run: RunFolder,
    model: AdaptiveViT,
    pictures: Pictures,
    recipe: TrainRecipe,
    progress: Progress,
    save_seconds: float,
) -> dict[str, Any]:
    settings = recipe.optimisation
    frozen = settings.freeze or 0
    freeze(model, frozen)

    def step(images: Tensor, labels: Tensor, draws: np.random.Generator, number: int) -> Mapping[str, Tensor]:
        # A sandwich without sub-networks is the cross-entropy of the full network.
        return {"loss": sandwich_step(model, images, labels, ()).loss}

    loop = run_loop(
        model, pictures, step, settings, run.folder,
        seed=recipe.seed, progress=progress, what="finetune", save_seconds=save_seconds,
    )  # fmt: skip
    return loop_record(loop, settings.batch)

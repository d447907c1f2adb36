"""Adapting a pretrained model to data by a recipe: the head on cached features, then some blocks or all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tavt_kit.core.measurement import Accuracy
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.checkpointing import has_state, remove_state
from tavt_kit.distill.common import (
    asked_of,
    card_of,
    check_batch,
    judge_of,
    loop_record,
    save_trained,
    settle,
    train_and_val_images,
)
from tavt_kit.distill.datasets import ImageSplit
from tavt_kit.distill.loop import SAVE_SECONDS, run_loop
from tavt_kit.distill.objectives import balanced_weights, make_step
from tavt_kit.distill.optimizer import attached, check_scales, freeze
from tavt_kit.distill.precision import evaluation_precision
from tavt_kit.distill.preset import recipe_names
from tavt_kit.distill.probe import Probe, fit_probe, set_head
from tavt_kit.distill.processes import Processes
from tavt_kit.distill.reading import DataOptions
from tavt_kit.distill.recipe import FAMILIES, TrainRecipe
from tavt_kit.distill.run_folder import RunFolder, begun_with
from tavt_kit.distill.sweep import evaluate_sweep, features
from tavt_kit.errors import TrainingError
from tavt_kit.models.backbones.ffvt import Ffvt
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.backbones.pim import Pim
from tavt_kit.models.backbones.transfg import TransFg
from tavt_kit.models.backbones.vitae import Vitae
from tavt_kit.models.timm_import import timm
from tavt_kit.models.wrap import AdaptiveViT


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

    A recipe may fit the head to cached features first, its penalty chosen by ``val`` accuracy; then it trains the last
    blocks or everything, step by step.

    Args:
        model: From ``open_model``, with a head of the data's classes; trained in place.
        images: The data.
        out: The run folder; one that was interrupted is continued.
        recipe: From ``train_recipe``; a probe by default.
        device: ``"cpu"``, ``"cuda:0"``; ``None`` takes a GPU if there is one.
        fresh: Start again whatever ``out`` holds.
        allow_unreadable: Images of ``val`` that may be skipped.
        progress: Watches.
        save_seconds: Time between two saved states.

    Returns:
        The run's record, as in ``run.json``.

    Raises:
        TavtError: As the parts: data, recipe, output, divergence.
        KeyboardInterrupt: The state was saved; the same call continues it.
    """
    processes, recipe = Processes.join(device), recipe or TrainRecipe()
    progress = progress if progress is not None and processes.first else Silent()
    check_family(recipe, model)
    card = _evaluated_by(recipe, model, card_of(model, images))
    model.to(processes.device)
    begun = {} if fresh else processes.once(lambda: begun_with(Path(out)))
    recipe = _settled(recipe, model, card, images, processes, begun)
    if not recipe.probe_only:
        _regularise(model, recipe)
        # What does not fit the model is refused before anything is written.
        check_scales(model, recipe.optimisation)
        make_step(model, recipe.objective)
    asked = asked_of(model, card, images, recipe.as_record())
    run = RunFolder(Path(out), "train", asked, fresh=fresh, processes=processes)
    processes.once(lambda: inherit_split(run.folder, images).sha256)
    if run.done:
        return run.body
    reading = DataOptions(cache=recipe.reading.cache) if recipe.probe_only else recipe.reading
    splits = train_and_val_images(
        images, card, reading, limit=recipe.limit, allow_unreadable=allow_unreadable, progress=progress
    )
    precision = evaluation_precision(str(recipe.running.precision))
    # With a saved state that holds the head, and more, there is no need for it.
    if recipe.probe and not ("probe" in run.results and has_state(run.folder)):
        run.note(**processes.once(lambda: _probe(model, splits, len(images.classes), precision, progress)))
    if not recipe.probe_only:
        if not recipe.probe:
            run.note(pictures=_counts(splits))
        loop = _finetune(run, model, splits, recipe, images.classes, processes, progress, save_seconds)
        dense = processes.once(
            lambda: evaluate_sweep(
                model, splits[1], "val", ("dense",), precision=precision, progress=progress, what="evaluate"
            )
        )
        results = {"loop": loop, "val": dense[0].accuracy.as_record()}
    else:
        results = {"val": run.results["probe"]["accuracy"]}
    if processes.first:
        save_trained(run.folder, model, replace(card, image_sizes=()), images, _what_was_done(recipe))
    run.finish(**results, precision=str(recipe.running.precision))
    if processes.first:
        remove_state(run.folder)
    return run.body


def _what_was_done(recipe: TrainRecipe) -> str:
    """For the card."""
    if recipe.probe_only:
        return "head fitted"
    blocks = "everything" if recipe.blocks == "all" else f"head and last {recipe.blocks} blocks"
    return f"{blocks} fine-tuned by the recipe {recipe.name}"


def _evaluated_by(recipe: TrainRecipe, model: AdaptiveViT, card: ModelCard) -> ModelCard:
    """The model's card with the evaluation that the recipe asks for."""
    known = [name for name in card.preprocessing if name != "image_size"]
    if unknown := sorted(set(recipe.evaluation) - set(known)):
        raise TrainingError(f"evaluation of a recipe has {', '.join(known)}, got {', '.join(unknown)}; leave it out")
    preprocessing = Preprocessing.from_record({**card.preprocessing, **recipe.evaluation})
    card = replace(card, preprocessing=preprocessing.as_record())
    model.card = card
    return card


def _settled(
    recipe: TrainRecipe,
    model: AdaptiveViT,
    card: ModelCard,
    images: ImageSet,
    processes: Processes,
    begun: Mapping[str, Any],
) -> TrainRecipe:
    blocks = model.layers if recipe.blocks == "all" else int(recipe.blocks)
    if not recipe.probe_only:
        if blocks > model.layers:
            raise TrainingError(f"1 to {model.layers} of the model's blocks can be trained, got {blocks}")
        check_batch(images, recipe.optimisation.batch, recipe.limit, recipe.reading)
    return settle(recipe, card, images, processes, freeze=max(model.layers - blocks, 0), begun=begun)


def _regularise(model: AdaptiveViT, recipe: TrainRecipe) -> None:
    """0 leaves what the model has of its own."""
    if recipe.drop_path:
        set_drop_path(model, recipe.drop_path)
    if recipe.dropout:
        set_dropout(model, recipe.dropout)


def _counts(splits: tuple[ImageSplit, ImageSplit]) -> dict[str, int]:
    train, val = splits
    return {"train": len(train), "val": len(val), "skipped": val.skipped}


def _probe(
    model: AdaptiveViT, splits: tuple[ImageSplit, ImageSplit], classes: int, precision: str, progress: Progress
) -> dict[str, Any]:
    """Fit the head and put it into the model; what is to be noted of it."""
    train, val = splits
    progress.stage("features", len(train) + len(val))
    seen = [features(model, split, precision=precision, progress=progress) for split in splits]
    fitted = fit_probe(seen[0], train.labels, seen[1], val.labels, classes)
    set_head(model, fitted.weight, fitted.bias)
    return {"pictures": _counts(splits), "probe": _probe_record(fitted, val.labels)}


def _probe_record(probe: Probe, labels: NDArray[np.int64]) -> dict[str, Any]:
    accuracy = Accuracy.of_counts(probe.val_correct, len(labels), split="val")
    tried = [{"penalty": penalty, "val": share} for penalty, share in probe.tried]
    return {"penalty": probe.penalty, "accuracy": accuracy.as_record(), "tried": tried}


def _finetune(
    run: RunFolder,
    model: AdaptiveViT,
    splits: tuple[ImageSplit, ImageSplit],
    recipe: TrainRecipe,
    classes: tuple[str, ...],
    processes: Processes,
    progress: Progress,
    save_seconds: float,
) -> dict[str, Any]:
    settings = recipe.optimisation
    freeze(model, settings.freeze or 0)
    balanced = recipe.objective.class_weights == "balanced"
    step, branch = make_step(
        model,
        recipe.objective,
        frozen=settings.freeze or 0,
        class_weights=balanced_weights(splits[0].labels, len(classes)) if balanced else None,
        seed=recipe.seed,
    )
    with attached(model, branch):
        loop = run_loop(
            model, splits[0], step, settings, recipe.running, run.folder,
            seed=recipe.seed, progress=progress, what="finetune", processes=processes, save_seconds=save_seconds,
            judge=judge_of(recipe.running, splits[1], classes, (model.dense_schedule,)),
        )  # fmt: skip
    return loop_record(loop, settings.batch)


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


def set_drop_path(model: AdaptiveViT, rate: float) -> None:
    """Leave out the branches of blocks at random while training (Huang et al., stochastic depth, ECCV 2016).

    The rate rises from 0 at the first block to ``rate`` at the last, as timm's models have it, and as ViTAE's own rule
    has it for ViTAE.

    Raises:
        TrainingError: The model's blocks have no place for it.
    """
    if isinstance(model.bare, Vitae):
        model.bare.set_drop_path(rate)
        return
    blocks = [module for module in model.bare.modules() if _paths(module)]
    if not blocks:
        raise TrainingError(f"{type(model.bare).__name__} has no blocks with drop path; leave `drop_path` at 0")
    for number, block in enumerate(blocks):
        for name in _paths(block):
            setattr(block, name, timm.layers.DropPath(rate * number / max(1, len(blocks) - 1)))


def _paths(module: nn.Module) -> list[str]:
    kinds = (nn.Identity, timm.layers.DropPath)
    children = module.named_children()
    return [name for name, child in children if name.startswith("drop_path") and isinstance(child, kinds)]


def set_dropout(model: AdaptiveViT, rate: float) -> None:
    """Dropout after the position embeddings and after both layers of each feed-forward half, as ViT-pytorch has it.

    Raises:
        TrainingError: The model has none of these.
    """
    found = [module for name, module in model.bare.named_modules() if _drops(name, module)]
    if not found:
        raise TrainingError(f"{type(model.bare).__name__} has no places for dropout; leave `dropout` at 0")
    for module in found:
        assert isinstance(module, nn.Dropout)
        module.p = rate


def _drops(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and name.endswith(("pos_drop", "mlp.drop1", "mlp.drop2"))

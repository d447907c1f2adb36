"""Adapting a pretrained model to data by a recipe: the head on cached features, then some blocks or all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, inherit_split
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill import common
from tavt_kit.distill.losses import balanced_weights, make_step
from tavt_kit.distill.optimizer import attached, check_scales, freeze
from tavt_kit.distill.recipes import TrainRecipe, recipe_names
from tavt_kit.distill.run_folder import RunFolder, begun_with, has_state, remove_state
from tavt_kit.distill.trainer import SAVE_SECONDS, Trainer, choose_device, evaluation_precision
from tavt_kit.errors import TrainingError, UnsupportedBackbone
from tavt_kit.models.backbones.fusion import Ffvt, TransFg
from tavt_kit.models.backbones.mixvit import MixVitHybrid
from tavt_kit.models.backbones.pim import Pim
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
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> dict[str, Any]:
    """Fit a model to a data set: the dense network, or the one schedule of the recipe, as ``tavt_kit.train`` says.

    The model, which ``open_model`` gave a head of the data's classes, is trained in place.

    Returns:
        The run's record, as in ``run.json``.

    Raises:
        TavtError: As the parts: data, recipe, output, divergence.
        KeyboardInterrupt: The state was saved; the same call continues it.
    """
    chosen, recipe, progress = choose_device(device), recipe or TrainRecipe(), progress or Silent()
    check_family(recipe, model)
    card = common.card_of(model, images)
    known = [name for name in card.preprocessing if name != "image_size"]
    if unknown := sorted(set(recipe.evaluation) - set(known)):
        raise TrainingError(f"evaluation of a recipe has {', '.join(known)}, got {', '.join(unknown)}; leave it out")
    preprocessing = Preprocessing.from_record({**card.preprocessing, **recipe.evaluation})
    model.card = card = replace(card, preprocessing=preprocessing.as_record())
    model.to(chosen)
    begun = {} if fresh else begun_with(Path(out))
    blocks = model.layers if recipe.blocks == "all" else int(recipe.blocks)
    if not recipe.probe_only:
        if blocks > model.layers:
            raise TrainingError(f"1 to {model.layers} of the model's blocks can be trained, got {blocks}")
        common.check_batch(images, recipe.optimisation.batch, recipe.limit, recipe.reading)
    recipe = common.settle(recipe, card, images, chosen, freeze=max(model.layers - blocks, 0), begun=begun)
    if not recipe.probe_only:
        if recipe.drop_path:  # 0 leaves what the model has of its own
            set_drop_path(model, recipe.drop_path)
        if recipe.dropout:
            set_dropout(model, recipe.dropout)
        # What does not fit the model is refused before anything is written.
        model.schedule = TokenSchedule.parse(recipe.schedule, model.layout)
        check_scales(model, recipe.optimisation)
        make_step(model, recipe.objective)
    asked = common.describe_run(model, card, images, recipe.as_record())
    run = RunFolder(Path(out), "train", asked, fresh=fresh)
    inherit_split(run.folder, images)
    if run.done:
        return run.body
    train = common.open_split(images, "train", preprocessing, recipe, plain=recipe.probe_only)
    val = common.open_split(images, "val", preprocessing, recipe)
    precision = evaluation_precision(str(recipe.running.precision))
    run.note(pictures={"train": len(train), "val": len(val)})
    # With a saved state that holds the head, and more, there is no need for it.
    if recipe.probe and not ("probe" in run.results and has_state(run.folder)):
        progress.stage("features", len(train) + len(val))
        seen = [common.features(model, split, precision=precision, progress=progress) for split in (train, val)]
        fitted = fit_probe(seen[0], train.labels, seen[1], val.labels, len(images.classes))
        set_head(model, fitted.weight, fitted.bias)
        accuracy = Accuracy.of_counts(fitted.val_correct, len(val), split="val")
        tried = [{"penalty": penalty, "val": share} for penalty, share in fitted.tried]
        run.note(probe={"penalty": fitted.penalty, "accuracy": accuracy.as_record(), "tried": tried})
    if recipe.probe_only:
        results, phrase = {"val": run.results["probe"]["accuracy"]}, "head fitted"
    else:
        settings, objective = recipe.optimisation, recipe.objective
        freeze(model, settings.freeze or 0)
        balanced = objective.class_weights == "balanced"
        weights = balanced_weights(train.labels, len(images.classes)) if balanced else None
        step, branch = make_step(model, objective, frozen=settings.freeze or 0, class_weights=weights, seed=recipe.seed)
        with attached(model, branch):
            loop = Trainer(
                model, train, step, settings, recipe.running, run.folder,
                seed=recipe.seed, progress=progress, what="finetune", save_seconds=save_seconds,
                judge=common.judge_of(recipe.running, val, images.classes, (model.schedule,)),
            ).run()  # fmt: skip
        points = {recipe.schedule: model.schedule}
        (own,) = common.evaluate_sweep(model, val, points, precision=precision, progress=progress, what="evaluate")
        results = {"loop": loop.as_record(settings.batch), "val": own.accuracy.as_record()}
        trained = "everything" if recipe.blocks == "all" else f"head and last {recipe.blocks} blocks"
        phrase = f"{trained} fine-tuned by the recipe {recipe.name}"
        if recipe.schedule != "dense":
            phrase += f" for the schedule {recipe.schedule}"
    counts = None if model.schedule == model.dense_schedule else model.schedule.counts
    common.save_trained(run.folder, model, replace(card, image_sizes=(), schedule=counts), images, phrase)
    run.finish(**results, precision=str(recipe.running.precision))
    remove_state(run.folder)
    return run.body


_CLASSES = {Ffvt: "ffvt", TransFg: "transfg", MixVitHybrid: "mixvit_hybrid", Pim: "pim"}


def check_family(recipe: TrainRecipe, model: AdaptiveViT) -> None:
    """Raise TrainingError for a recipe of another family; every timm ViT, whatever its attention, is a plain one."""
    bare = model.bare
    own = next((name for kind, name in _CLASSES.items() if isinstance(bare, kind)), "vit")
    if isinstance(bare, Vitae):
        own = "vitae" if bare.version == 1 else "vitaev2"
    if recipe.family not in (None, own):
        raise TrainingError(
            f"the recipe {recipe.name} is for {recipe.family}, but the model is {own}; take one of "
            f"{', '.join(recipe_names(own))}, or another model"
        )


def set_drop_path(model: AdaptiveViT, rate: float) -> None:
    """Leave out the branches of blocks at random while training (Huang et al., stochastic depth, ECCV 2016).

    The rate rises from 0 at the first block to ``rate`` at the last, as timm's models have it, and as ViTAE's own rule
    has it for ViTAE; TrainingError where blocks have no place for it.
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
    """Dropout after the position embeddings and after both layers of each feed-forward half, as ViT-pytorch has it."""
    named, places = model.bare.named_modules(), ("pos_drop", "mlp.drop1", "mlp.drop2")
    dropouts = [part for name, part in named if name.endswith(places) and isinstance(part, nn.Dropout)]
    if not dropouts:
        raise TrainingError(f"{type(model.bare).__name__} has no places for dropout; leave `dropout` at 0")
    for module in dropouts:
        module.p = rate


PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""L2 penalties tried, on standardised features, per image."""

_ROUNDS = 500


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A fitted head: weight (C, D), for features as they are (the standardisation is folded in), and bias (C,).

    With the L2 penalty that was chosen, the images of ``val`` it has right, and the accuracy there by each penalty.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    val_correct: int
    tried: tuple[tuple[float, float], ...]


def fit_probe(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    val: NDArray[np.float32],
    val_labels: NDArray[np.int64],
    classes: int,
) -> Probe:
    """Fit one head per penalty and take the one with the best ``val`` accuracy; of equals the strongest penalty.

    Features are (n, D) for training and (m, D) of ``val``, labels 0..classes-1; a class without images gets a low bias.

    Raises:
        TrainingError: Features that are not finite.

    Example:
        >>> x = np.array([[0.0], [1.0]], np.float32)
        >>> fit_probe(x, np.array([0, 1]), x, np.array([0, 1]), 2).val_correct
        2
    """
    if not (np.isfinite(train).all() and np.isfinite(val).all()):
        raise TrainingError("the model's features are not finite, so no head can be fitted; try `precision` f32")
    x = torch.from_numpy(train).double()
    mean, spread = x.mean(dim=0), x.std(dim=0, correction=0)
    # What varies by no more than float32 rounds is constant.
    spread = torch.where(spread > 1e-6 * mean.abs(), spread, torch.ones_like(spread))
    x = (x - mean) / spread
    held_out, held_labels = torch.from_numpy(val).double(), torch.from_numpy(val_labels)
    labels = torch.from_numpy(train_labels)
    start = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64)
    best: Probe | None = None
    tried = []
    # From the strongest penalty on, each fit starting at the one before, and only a better one replaces it.
    for penalty in reversed(PENALTIES):
        start = _fit(x, labels, start, penalty)
        weight = start[:, :-1] / spread
        bias = start[:, -1] - weight @ mean
        correct = int(((held_out @ weight.T + bias).argmax(dim=1) == held_labels).sum())
        tried.append((penalty, correct / len(held_labels)))
        if best is None or correct > best.val_correct:
            best = Probe(weight.float(), bias.float(), penalty, correct, ())
    assert best is not None
    return replace(best, tried=tuple(tried))


def _fit(x: Tensor, labels: Tensor, start: Tensor, penalty: float) -> Tensor:
    """(C, D + 1), the bias last and unpenalised: the minimum of a convex function, so the start hardly matters."""
    parameters = start.clone().requires_grad_(True)
    optimiser: Any = torch.optim.LBFGS(  # Any: untyped in torch
        [parameters], max_iter=_ROUNDS, tolerance_grad=1e-7, tolerance_change=1e-11, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = x @ parameters[:, :-1].T + parameters[:, -1]
        loss = F.cross_entropy(logits, labels) + 0.5 * penalty * parameters[:, :-1].square().sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return parameters.detach()


def set_head(model: AdaptiveViT, weight: Tensor, bias: Tensor) -> None:
    """Put a probe into the model's classifier (both of a distilled DeiT's, whose logits are averaged)."""
    heads = getattr(model.unwrap(), "get_classifier", lambda: None)()
    for head in heads if isinstance(heads, tuple) else (heads,):
        if not isinstance(head, nn.Linear) or head.weight.shape != weight.shape or head.bias is None:
            shape = tuple(head.weight.shape) if isinstance(head, nn.Linear) else type(head).__name__
            raise UnsupportedBackbone(
                f"the head must be a linear layer of {tuple(weight.shape)} with a bias, got {shape}"
            )
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)

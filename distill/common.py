"""What fine-tuning and distillation share: a model ready to be trained, and the record of what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from tavt_kit.checkpoints import save_model
from tavt_kit.checkpoints.folder import sha256_tensors
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress
from tavt_kit.core.records import make_folder
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.datasets import ImageSplit, Order, check_shares, read_images
from tavt_kit.distill.options import DataOptions, TrainingOptions
from tavt_kit.distill.processes import Processes, choose_precision, evaluation_precision
from tavt_kit.distill.recipes import DistillRecipe, TrainRecipe
from tavt_kit.distill.trainer import Judge, Loop, SelectionMetric
from tavt_kit.distill.transforms import photometric
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.models.wrap import AdaptiveViT


def card_of(model: AdaptiveViT, images: ImageSet) -> ModelCard:
    """The model's card, after checking that it is of the data's classes.

    Raises:
        DataError: The model has none, or knows other classes, or the same in another order.
    """
    card = model.require_card()
    images.require_classes(card.classes)
    return card


_Recipe = TypeVar("_Recipe", TrainRecipe, DistillRecipe)


def settle(
    recipe: _Recipe, card: ModelCard, images: ImageSet, processes: Processes, *, freeze: int, begun: Mapping[str, Any]
) -> _Recipe:
    """Decide what the recipe left open, by the model, the machine and the number of training images.

    Args:
        recipe: As asked for.
        card: The model's.
        images: The data.
        processes: Processes that share the work.
        freeze: Leading layers that are not trained.
        begun: What a run that is continued was asked for: it keeps its precision on another machine.

    Raises:
        TrainingError: A precision, metric, crop, turn or policy that cannot be, a batch that cannot be divided, or
            warm-up and steps that do not go together.
        OutputError: The cache's folder cannot be written.
    """
    preprocessing, batch = Preprocessing.from_record(card.preprocessing), recipe.optimisation.batch
    count = len(thin_out(images.split("train"), recipe.limit))
    optimisation = recipe.optimisation.settled(images=count, freeze=freeze)
    reading = recipe.reading.settled(preprocessing)
    photometric(reading, preprocessing)
    if reading.cache is not None:
        make_folder(reading.cache)
    SelectionMetric(recipe.running.metric, card.classes)
    recipe.running.check_split(batch, processes.count)
    precision = choose_precision(recipe.running.precision or begun.get("precision"), processes.device)
    running = replace(recipe.running, precision=precision)
    return replace(recipe, optimisation=optimisation, reading=reading, running=running)


def judge_of(
    running: TrainingOptions, split: ImageSplit, classes: tuple[str, ...], schedules: Sequence[TokenSchedule]
) -> Judge:
    """Compares weights by the mean of a metric over schedules, on ``val``.

    Args:
        running: Machinery, with nothing left open.
        split: The images of ``val``.
        classes: Names of the data's classes.
        schedules: Schedules over which the mean is taken.
    """
    metric = SelectionMetric(running.metric, classes)

    def value(model: AdaptiveViT) -> float:
        evaluate = Evaluator(
            model, split.pixels, split.labels, split.preprocessing,
            split="val", precision=evaluation_precision(str(running.precision)),
        )  # fmt: skip
        found = [evaluate.logits(schedule) for schedule in schedules]
        return sum(metric.of(logits, split.labels) for logits in found) / len(found)

    return Judge(metric, value)


def asked_of(model: AdaptiveViT, card: ModelCard, images: ImageSet, recipe: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides a run's result; two runs with the same answer give the same weights."""
    size = Preprocessing.from_record(card.preprocessing).image_size
    return {
        **recipe,
        "model": card.name,
        "image_size": list(size),
        "score": model.score,
        "pool": model.pool,
        **({} if model.reduction == "drop" else {"reduction": model.reduction}),
        "start_sha256": sha256_tensors(model.state_dict(), shapes=False),
        "data": images.name,
    }


def check_batch(images: ImageSet, batch: int, limit: int | None, reading: DataOptions) -> None:
    """Raise TrainingError if a batch cannot be made of the training images, before any of them is read."""
    Order(len(thin_out(images.split("train"), limit)), batch, 0)
    check_shares(batch, reading)


def open_split(
    images: ImageSet,
    name: str,
    preprocessing: Preprocessing,
    recipe: TrainRecipe | DistillRecipe,
    *,
    plain: bool = True,
    allow_unreadable: int = 0,
    progress: Progress | None = None,
) -> ImageSplit:
    """A split as the recipe limits it; where ``plain``, as evaluation sees it (of the reading the cache alone)."""
    reading = DataOptions(cache=recipe.reading.cache) if plain else recipe.reading
    return read_images(
        images.split(name), preprocessing, reading,
        limit=recipe.limit, allow_unreadable=allow_unreadable, progress=progress,
    )  # fmt: skip


def save_trained(folder: Path, model: AdaptiveViT, card: ModelCard, images: ImageSet, how: str) -> ModelCard:
    """Write the model with a card that says how it was trained and on what."""
    card = replace(card, provenance=f"{card.provenance}; {how} on {images.name}" if card.provenance else how)
    if images.licence is not None:
        card = card.with_licence(images.licence)
    return save_model(folder, model, card)


def loop_record(loop: Loop, batch: int) -> dict[str, Any]:
    """JSON-ready, with the speed people ask for."""
    speed = None if loop.seconds_per_step is None else batch / loop.seconds_per_step
    return {**asdict(loop), "images_per_second": speed}

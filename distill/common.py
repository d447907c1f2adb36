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
        processes: That share the work.
        freeze: Leading layers that are not trained.
        begun: What a run that is continued was asked for: it keeps its precision on another machine.

    Raises:
        TrainingError: A precision, metric, crop, turn or policy that cannot be, a batch that cannot be divided, or
            warm-up and steps that do not go together.
        OutputError: The cache's folder cannot be written.
    """
    count = len(thin_out(images.split("train"), recipe.limit))
    return replace(
        recipe,
        optimisation=recipe.optimisation.settled(images=count, freeze=freeze),
        reading=_settled_reading(recipe.reading, Preprocessing.from_record(card.preprocessing)),
        running=_settled_running(recipe.running, card, processes, recipe.optimisation.batch, begun.get("precision")),
    )


def _settled_running(
    running: TrainingOptions, card: ModelCard, processes: Processes, batch: int, begun: str | None
) -> TrainingOptions:
    SelectionMetric(running.metric, card.classes)
    running.check_split(batch, processes.count)
    return replace(running, precision=choose_precision(running.precision or begun, processes.device))


def judge_of(
    running: TrainingOptions, split: ImageSplit, classes: tuple[str, ...], schedules: Sequence[TokenSchedule]
) -> Judge:
    """Compares weights by the mean of a metric over schedules, on ``val``.

    Args:
        running: Settled.
        split: Of ``val``.
        classes: Of the data.
        schedules: The mean over them counts.
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


def _settled_reading(reading: DataOptions, preprocessing: Preprocessing) -> DataOptions:
    reading = reading.settled(preprocessing)
    photometric(reading, preprocessing)
    if reading.cache is not None:
        make_folder(reading.cache)
    return reading


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


def train_and_val_images(
    images: ImageSet,
    card: ModelCard,
    reading: DataOptions,
    *,
    limit: int | None,
    allow_unreadable: int,
    progress: Progress | None = None,
) -> tuple[ImageSplit, ImageSplit]:
    """The training split, all of it readable, and ``val``, of which some may be skipped."""
    preprocessing = Preprocessing.from_record(card.preprocessing)
    train = read_images(images.split("train"), preprocessing, reading, limit=limit, progress=progress)
    return train, val_images(
        images, preprocessing, reading, limit=limit, allow_unreadable=allow_unreadable, progress=progress
    )


def val_images(
    images: ImageSet,
    preprocessing: Preprocessing,
    reading: DataOptions,
    *,
    limit: int | None,
    allow_unreadable: int,
    progress: Progress | None = None,
) -> ImageSplit:
    """``val`` as evaluation sees it: of what is done to training images only the cache is used."""
    return read_images(
        images.split("val"),
        preprocessing,
        DataOptions(cache=reading.cache),
        limit=limit,
        allow_unreadable=allow_unreadable,
        progress=progress,
    )


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

"""What fine-tuning and distillation share: recipes settled, runs described, accuracy on ``val`` before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tavt_kit.checkpoints import save_model
from tavt_kit.checkpoints.folder import sha256_tensors
from tavt_kit.core.accuracy import Accuracy, bits_text
from tavt_kit.core.codec import Record, recorded_as
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import atomic_path, make_folder
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.distill.datasets import ImageSplit, Order, check_pairs, read_images
from tavt_kit.distill.options import DataOptions, TrainingOptions
from tavt_kit.distill.recipes import DistillRecipe, TrainRecipe
from tavt_kit.distill.run_folder import LADDER_FILE, STATE_FOLDER
from tavt_kit.distill.trainer import Judge, SelectionMetric, autocast, choose_precision, evaluation_precision
from tavt_kit.distill.transforms import photometric
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import paired
from tavt_kit.models.flops import MacsFormula, count_macs
from tavt_kit.models.wrap import AdaptiveViT


def card_of(model: AdaptiveViT, images: ImageSet) -> ModelCard:
    """The model's card; DataError where it has none, knows other classes, or the same in another order."""
    card = model.require_card()
    images.require_classes(card.classes)
    return card


_Recipe = TypeVar("_Recipe", TrainRecipe, DistillRecipe)


def settle(
    recipe: _Recipe, card: ModelCard, images: ImageSet, device: torch.device, *, freeze: int, begun: Mapping[str, Any]
) -> _Recipe:
    """Decide what the recipe left open, by the model, the machine and the number of training images.

    A run that is continued keeps the precision that it ``begun`` with on another machine.

    Raises:
        TrainingError: A precision, metric, crop, turn or policy that cannot be, a batch that cannot be divided, or
            warm-up and steps that do not go together.
    """
    preprocessing, batch = Preprocessing.from_record(card.preprocessing), recipe.optimisation.batch
    count = len(thin_out(images.split("train"), recipe.limit))
    optimisation = recipe.optimisation.settled(images=count, freeze=freeze)
    reading = recipe.reading.settled(preprocessing)
    photometric(reading, preprocessing)
    SelectionMetric(recipe.running.metric, card.classes)
    recipe.running.check_split(batch)
    precision = choose_precision(recipe.running.precision or begun.get("precision"), device)
    running = replace(recipe.running, precision=precision)
    return replace(recipe, optimisation=optimisation, reading=reading, running=running)


def judge_of(
    running: TrainingOptions, split: ImageSplit, classes: tuple[str, ...], schedules: Sequence[TokenSchedule]
) -> Judge:
    """Compares weights by the mean of a metric over schedules, on the split ``val``; nothing is left open."""
    metric = SelectionMetric(running.metric, classes)

    def value(model: AdaptiveViT) -> float:
        evaluate = Evaluator(
            model, split.pixels, split.labels, split.preprocessing,
            split="val", precision=evaluation_precision(str(running.precision)),
        )  # fmt: skip
        answers = [evaluate.logits(schedule) for schedule in schedules]
        return sum(metric.of(logits, split.labels) for logits in answers) / len(answers)

    return Judge(metric, value)


def describe_run(model: AdaptiveViT, card: ModelCard, images: ImageSet, recipe: dict[str, Any]) -> dict[str, Any]:
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
    check_pairs(batch, reading)


def open_split(
    images: ImageSet,
    name: str,
    preprocessing: Preprocessing,
    recipe: TrainRecipe | DistillRecipe,
    *,
    plain: bool = True,
) -> ImageSplit:
    """A split as the recipe limits it; where ``plain``, as evaluation sees it."""
    reading = DataOptions() if plain else recipe.reading
    return read_images(images.split(name), preprocessing, reading, limit=recipe.limit)


def save_trained(folder: Path, model: AdaptiveViT, card: ModelCard, images: ImageSet, phrase: str) -> ModelCard:
    """Write the model with a card that says how it was trained and on what."""
    card = replace(card, provenance=f"{card.provenance}; {phrase} on {images.name}" if card.provenance else phrase)
    if images.licence is not None:
        card = card.with_licence(images.licence)
    return save_model(folder, model, card)


SWEEP = ("dense", "taper:0.1", "taper:0.2", "taper:0.3", "taper:0.4", "stages:0.3", "stages:0.5")
"""Before and after distillation, always these."""

_FEATURE_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class SweepPoint(Record):
    """One schedule's accuracy, and which images (n,) are right, for pairing with another ladder on the same images."""

    name: str
    schedule: TokenSchedule
    macs: int
    accuracy: Accuracy
    correct: NDArray[np.bool_] = field(metadata=recorded_as(skip=True))


def evaluate_sweep(
    model: AdaptiveViT,
    val: ImageSplit,
    points: Mapping[str, TokenSchedule],
    *,
    precision: str = "f32",
    progress: Progress | None = None,
    what: str = "ladder",
) -> tuple[SweepPoint, ...]:
    """The accuracy of each schedule on the same images.

    Raises:
        MeasurementError: The logits are not finite.
    """
    progress = progress or Silent()
    progress.stage(what, len(points))
    evaluate = Evaluator(model, val.pixels, val.labels, val.preprocessing, split="val", precision=precision)
    seen = []
    for name, schedule in points.items():
        macs = count_macs(model, schedule)
        seen.append(SweepPoint(name, schedule, macs, evaluate(schedule), evaluate.correct(schedule)))
        progress.advance(1)
    return tuple(seen)


def features(
    model: AdaptiveViT, split: ImageSplit, *, precision: str = "f32", progress: Progress | None = None
) -> NDArray[np.float32]:
    """(n, D): what the head's last linear layer receives when nothing is dropped."""
    device = next(model.parameters()).device
    before, was_training = model.schedule, model.training
    model.eval()
    model.schedule = model.dense_schedule
    parts = []
    try:
        with torch.no_grad(), autocast(precision, device):  # inference_mode would convert weights anew for each batch
            for start in range(0, len(split), _FEATURE_BATCH):
                images = torch.from_numpy(split.inputs(split.pixels[start : start + _FEATURE_BATCH]))
                parts.append(model.forward_pooled(images.to(device)).float().cpu().numpy())
                if progress is not None:
                    progress.advance(len(parts[-1]))
    finally:
        model.schedule = before
        model.train(was_training)
    return np.concatenate(parts)


_FEWER = (3, 5, 10)
"""Times fewer multiply-adds than dense."""
_GRID = 1000
"""Ratios of the tapers are whole thousandths, so that their names and counts are the same everywhere."""


def schedule_sweep(model: AdaptiveViT) -> dict[str, TokenSchedule]:
    """A model's schedules by name, of ever fewer multiply-adds: ``SWEEP``, and a third, a fifth and a tenth of dense.

    Each of the latter is the mildest taper with no more multiply-adds than its name says. Where a model cannot get so
    low, because of what no schedule saves (convolutions of ViTAE, a pyramid, a fusion), ``"fewest tokens"`` ends it.
    """
    ladder = {name: TokenSchedule.parse(name, model.layout) for name in SWEEP}
    formula = MacsFormula.of(model)
    tapers = [TokenSchedule.taper(model.layout, ratio / _GRID) for ratio in range(_GRID)]
    macs = formula.macs_many(np.array([taper.counts for taper in tapers]))
    for times in _FEWER:
        enough = np.flatnonzero(macs * times <= macs[0])
        if not len(enough):
            ladder["fewest tokens"] = tapers[-1]
            break
        ladder[f"{times}x fewer"] = tapers[enough[0]]
    return dict(sorted(ladder.items(), key=lambda point: -formula.macs(point[1])))


def keep_before(folder: Path, points: Sequence[SweepPoint]) -> None:
    """Remember which images were right (points, n), so that a resumed run can pair them."""
    with atomic_path(make_folder(Path(folder) / STATE_FOLDER) / LADDER_FILE) as temporary:
        np.save(temporary, np.stack([point.correct for point in points]), allow_pickle=False)


def after_record(folder: Path, points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    """The points' records, each with the paired ``difference`` (after minus before) and which images are right."""
    known: NDArray[np.bool_] = np.load(Path(folder) / STATE_FOLDER / LADDER_FILE, allow_pickle=False)
    pairs = zip(known, points, strict=True)
    return [
        {**point.as_record(), "difference": paired(old, point.correct).as_record(), "correct": bits_text(point.correct)}
        for old, point in pairs
    ]

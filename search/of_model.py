"""A search over a model and a folder of images, in a few lines of Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tavt_kit.core.budget import Budget
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import DataError
from tavt_kit.search.feasibility import Costs, refuse_unsearchable
from tavt_kit.search.objectives import Objectives
from tavt_kit.search.result import Progress, SearchResult
from tavt_kit.search.space import Space
from tavt_kit.search.study import search

if TYPE_CHECKING:
    from tavt_kit.data import ImageSet
    from tavt_kit.models.wrap import AdaptiveViT


def search_model(
    model: AdaptiveViT,
    images: ImageSet | Path | str,
    *,
    budget: Sequence[str] = (),
    objectives: Sequence[str] = (),
    algorithm: str = "nsga2",
    evaluations: int | None = 300,
    max_seconds: float | None = None,
    population: int | None = None,
    seed: int = 0,
    schedules: Sequence[str] = (),
    costs: Costs | None = None,
    limit: int | None = None,
    preprocessing: Preprocessing | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Search the token schedules of a wrapped model on the split ``val`` of its images.

    Nothing is measured here: without ``costs`` the cost is multiply-adds. ``fgvc-kit search`` measures a target, and
    proves on it what is chosen.

    Args:
        model: Wrapped, on its device; what ``tavt_kit.wrap`` or ``tavt_kit.load_model`` gives.
        images: The run folder that the model was trained in, whose split is kept to; or a folder of class folders, a
            CSV list, or what ``tavt_kit.data.load_images`` gives. Its classes are the model's, in the same order.
        budget: Limits as on the command line, such as ``flops=3G`` or ``drop=0.5``.
        objectives: As on the command line.
        algorithm: One of ``ALGORITHMS``.
        evaluations: Schedules to evaluate, the dense one included; ``None`` for no bound.
        max_seconds: Of evaluation; ``None`` for no bound.
        population: Schedules of a generation; ``None`` for the algorithm's own.
        seed: Of the split, where the folder has none, and of the proposals.
        schedules: To begin with, such as ``taper:0.2``.
        costs: With a latency where one is limited: ``latency_ms`` may be the ``predict`` of a measured table.
        limit: At most so many images of ``val``.
        preprocessing: Of images; ``None`` for what the model's card says, which ``tavt_kit.wrap`` alone gives none.
        on_progress: Called after each evaluation; ``Progress.candidate`` is what was evaluated.

    Raises:
        DataError: Images that do not fit the model, or fewer than ``limit``.
        TavtError: As ``search``.

    Example:
        >>> import tavt_kit as tk
        >>> from tavt_kit.search import front_frame, search_model
        >>> model = tk.load_model("runs/birds")  # doctest: +SKIP
        >>> found = search_model(model, "runs/birds", budget=["flops=2G"], on_progress=print)  # doctest: +SKIP
        >>> front_frame(found)  # doctest: +SKIP
    """
    from tavt_kit.data import ImageSet, load_bytes
    from tavt_kit.evaluation.evaluator import Evaluator
    from tavt_kit.evaluation.metrics import Scoring
    from tavt_kit.models.flops import MacsFormula

    limits, weighed = Budget.parse(budget), Objectives.parse(objectives)
    refuse_unsearchable(limits)
    image_set = images if isinstance(images, ImageSet) else _images(images, seed)
    preprocessing = preprocessing or _preprocessing(model)
    _check_images(model, image_set, limit)
    pixels, labels, _ = load_bytes(image_set.split("val"), preprocessing, limit=limit)
    floors = ("top1" if one.quantity == "drop" else one.name for one in limits.floors)
    metrics = (weighed.metric or "top1", *weighed.metrics, *floors)
    evaluator = Evaluator(model, pixels, labels, preprocessing, scoring=Scoring(metrics, labels, image_set.classes))
    counted = Costs(MacsFormula.of(model).macs, official_macs=MacsFormula.of(model, rule="tavt").macs)
    seeds = [TokenSchedule.parse(text, model.layout) for text in schedules]
    return search(
        Space(model.layout).holding(seeds),
        evaluator.evaluate,
        costs=costs or counted,
        budget=limits,
        algorithm=algorithm,
        objectives=weighed,
        evaluations=evaluations,
        max_seconds=max_seconds,
        population=population,
        seed=seed,
        seeds=seeds,
        on_progress=on_progress,
    )


def _images(place: Path | str, seed: int) -> ImageSet:
    """Those that a run was trained on, by its own split; or those at a place, split anew where they are not."""
    from tavt_kit.data import load_images
    from tavt_kit.data.splits import SPLIT_FILE, read_split

    return read_split(Path(place)) if (Path(place) / SPLIT_FILE).is_file() else load_images(str(place), seed=seed)


def _preprocessing(model: AdaptiveViT) -> Preprocessing:
    if model.card is None:
        raise DataError(
            "this model has no card that says how its images are prepared; give preprocessing, such as "
            "Preprocessing.from_config(model.unwrap().pretrained_cfg)"
        )
    return Preprocessing.from_record(model.card.preprocessing)


def _check_images(model: AdaptiveViT, image_set: ImageSet, limit: int | None) -> None:
    """Raise DataError where the classes are not the model's, or there are fewer images than asked for."""
    outputs = getattr(model.unwrap(), "num_classes", None)
    if model.card is not None:
        image_set.require_classes(model.card.classes)
    elif outputs is not None and outputs != len(image_set.classes):
        raise DataError(f"the model has {outputs} outputs, but {image_set.name} has {len(image_set.classes)} classes")
    there = len(image_set.split("val"))
    if limit is not None and limit > there:
        raise DataError(f"limit asks for {limit} images, but the split val of {image_set.name} has {there}")

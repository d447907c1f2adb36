"""What is searched: the model and its images, and the run folder that is tied to them."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.checkpoints import is_run, save_model
from tavt_kit.checkpoints.folder import read_run, sha256_tensors
from tavt_kit.core.budget import LEAST_HELD_OUT
from tavt_kit.core.configuration import Choice
from tavt_kit.core.deadline import Deadline
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, Sample, inherit_split, load_images
from tavt_kit.data.loading import thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.splits import SPLIT_FILE
from tavt_kit.errors import DataError, ParameterError, RecordError
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import FileSession, Session
from tavt_kit.search import Space
from tavt_kit.search.joint_space import JointSpace
from tavt_kit.search.racing import stratified
from tavt_kit.workflows.run_model import images_of, open_given
from tavt_kit.workflows.schedules import listed_schedules
from tavt_kit.workflows.search_config import SearchConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RECIPE_FILE = "recipe.json"

_FILES = ("recipe.json", "front.json", "candidates.csv", "kept.json",
          "profile.json", "report.html", "report.md", "report.csv", "report.json")  # fmt: skip
_COPIES = ("model.safetensors", "model.json", "split.json")


@dataclass(frozen=True, slots=True)
class SearchContext:
    """A model with its images.

    Args:
        model: Wrapped, in eval mode, on the CPU.
        images: With the split that the model was trained on.
        weights: SHA-256 of all tensors, names and shapes.
        plain: Schedules of the model as it is.
        opened: Sessions that stay open on the target.
        opening: Seconds that opening a session took at most, by precision; ``None`` for the target's own.
        joint: What further genes may be; ``None`` for a search of token counts alone.
        alone: Whether schedules alone are proposed, so that ``joint`` makes baselines only.
        variants: The model as these genes want it, as far as it was made.
        quantized: Int8 sessions of these by the layers that run, whose counts are an input.
        progress: Watcher of the search.
        deadline: When the search has to have ended.
        judges: Whether it is of the part of val that judges what the other part chose.
    """

    model: AdaptiveViT
    images: ImageSet
    weights: str
    plain: Space
    opened: dict[Choice, Session] = field(default_factory=dict, compare=False)
    opening: dict[str | None, float] = field(default_factory=dict, compare=False)
    joint: JointSpace | None = None
    alone: bool = False
    variants: dict[object, AdaptiveViT] = field(default_factory=dict, compare=False)
    quantized: dict[tuple[int, tuple[int, ...] | None], FileSession] = field(default_factory=dict, compare=False)
    progress: Progress = field(default_factory=Silent, compare=False)
    deadline: Deadline = field(default_factory=Deadline, compare=False)
    judges: bool = False

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.model.require_card()

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's."""
        return Preprocessing.from_record(self.card.preprocessing)

    @property
    def space(self) -> Space:
        """What may be proposed."""
        return self.plain if self.joint is None or self.alone else self.joint

    @property
    def untrained_sizes(self) -> list[int]:
        """Image sizes, in pixels a side, that are looked at though the weights were never trained for them."""
        sizes = () if self.joint is None else self.joint.sizes[1:]
        return [width for _, width in sizes if width not in self.card.image_sizes]

    def seeds(self, config: SearchConfig) -> list[TokenSchedule]:
        """The schedules to begin with, read for this model: the user's, then those of an earlier front."""
        return _seeds(self.model, config)

    def check_metrics(self, config: SearchConfig) -> None:
        """Raise DataError for a metric that the images of val cannot give."""
        import numpy as np

        for context in (self, self.judge(config)):
            if context is not None:
                labels = np.array([sample.label for sample in val_samples(context, config)])
                Scoring(config.metrics, labels, self.card.classes)

    def judge(self, config: SearchConfig) -> SearchContext | None:
        """The same with the other half of val, which judges the floors; ``None`` where nothing or too little is judged.

        A model that was chosen by its answers looks better on these images than it is, so they cannot prove a floor.
        """
        images = min(len(self.images.split("val")), config.limit or 10**9)
        return replace(self, judges=True) if config.budget.floors and images >= 2 * LEAST_HELD_OUT else None

    def ties(self, config: SearchConfig) -> dict[str, Any]:
        """What the answers of a search depend on, besides the schedule."""
        carried: dict[str, Any] = {} if config.profile is None else {"profile": config.profile.digest}
        if self.joint is not None:
            joint = self.joint
            sizes = [list(size) for size in joint.sizes]
            carried["joint"] = {"sizes": sizes, "spared": list(joint.spared), "scores": list(joint.scores),
                                "precisions": list(joint.precisions), "reductions": list(joint.reductions)}  # fmt: skip
        return carried | {
            "model": self.card.name,
            "weights": self.weights,
            "preprocessing": dict(self.card.preprocessing),
            "score": self.model.score,
            "pool": self.model.pool,
            **({} if self.model.reduction == "drop" else {"reduction": self.model.reduction}),
            "data": self.images.name,
            "split": self.images.sha256,
            "limit": config.limit,
            "allow_unreadable": config.allow_unreadable,
            "target": None if config.target is None else str(config.target),
            "precision": config.evaluation_device.precision,
            "evaluate_on": config.evaluation_device.runtime,
            "screen": config.screen if config.races else 0,
            "metrics": list(config.metrics),
        }


def open_context(config: SearchConfig, progress: Progress, deadline: Deadline) -> SearchContext:
    """Open the model and the images it was trained on.

    Raises:
        TavtError: Neither can be had, or their classes differ.
    """
    given = config.model
    trained = isinstance(given, str) and is_run(given)
    if trained and config.weights is not None:
        raise ParameterError(f"`weights` is for a model given by name, but {given} is a run with weights of its own")
    images = _images(config)
    model = open_given(
        given,
        weights=config.weights,
        classes=None if trained else images.classes,
        image_size=config.image_size,
        seed=config.seed,
        score=None if config.score == "any" else config.score,
        pool=config.pool,
        reduction=config.reduction,
        copied=True,
    )
    images.require_classes(model.require_card().classes)
    available = len(images.split("val"))
    if config.limit is not None and config.limit > available:
        raise DataError(
            f"`limit` asks for {config.limit} images, but the split val of {images.name} has {available}; give "
            "at most that many, or no limit"
        )
    least = None if config.min_patches is None else model.prefix + config.min_patches
    plain = Space(model.layout, least).holding(_seeds(model, config))
    return SearchContext(model, images, sha256_tensors(model.state_dict()), plain, progress=progress, deadline=deadline)


def _seeds(model: AdaptiveViT, config: SearchConfig) -> list[TokenSchedule]:
    texts = listed_schedules(model, config.schedules, config.front)
    return [TokenSchedule.parse(text, model.layout) for text in texts]


def _images(config: SearchConfig) -> ImageSet:
    """The images that a search is given: by the split of the model's run or of a run folder, or divided anew.

    Raises:
        DataError: None are given, or others than the run's.
    """
    data, run = config.data, _run_of(config.model)
    if isinstance(data, str) and is_run(data) and (run is None or not isinstance(config.model, str)):
        run, data = Path(data), None
    if isinstance(data, ImageSet):
        return data if run is None or not (run / SPLIT_FILE).exists() else inherit_split(run, data)
    if run is not None:
        return images_of(run, data)
    if data is None:
        raise DataError("a search needs images: give `data` with a folder, a CSV list, elpv or textile")
    return load_images(data, seed=config.seed)


def _run_of(model: str | AdaptiveViT) -> Path | None:
    """The run folder that says which images a model was made with; None where none does."""
    if isinstance(model, str):
        return Path(model) if is_run(model) else None
    known = model.folder is not None and (model.folder / SPLIT_FILE).exists()
    return model.folder if known else None


def val_samples(context: SearchContext, config: SearchConfig) -> list[Sample]:
    """Those of val that a search looks at, in an order in which the first of them, however many, are like all.

    Where floors are judged, every other image of each class is kept for that: ``SearchContext.judge``.
    """
    samples = thin_out(context.images.split("val"), config.limit)
    ordered = [samples[place] for place in stratified([sample.label for sample in samples])]
    if context.judge(config) is None:
        return ordered
    seen, found = Counter[int](), list[Sample]()
    for sample in ordered:
        if (seen[sample.label] + sample.label) % 2 == context.judges:
            found.append(sample)
        seen[sample.label] += 1
    return found


def check_place(context: SearchContext, config: SearchConfig) -> None:
    """See that the output folder may become a run of this model and split, before anything is written there.

    Raises:
        RecordError: The folder holds another model.
    """
    out = config.out
    if not is_run(out) or (config.fresh and _was_copied(out)):
        return
    card, tensors = read_run(out)
    if sha256_tensors(tensors) != context.weights or _use(card) != _use(context.card):
        raise RecordError(
            f"{out} is a run of another model ({_told(card)}) than {config.model_text} ({_told(context.card)}); "
            "choose another `out`"
        )


def settle(context: SearchContext, config: SearchConfig) -> bool:
    """Make the output folder a run of this model and split, or refuse it if it is another's.

    Returns:
        Whether the model was copied into it, now or by an earlier run of this search.

    Raises:
        RecordError: The folder holds another model.
        DataError: The folder holds another split.
    """
    check_place(context, config)
    out, new = config.out, not is_run(config.out)
    if new:
        save_model(out, context.model, context.card)
    inherit_split(out, context.images)
    return new or _was_copied(out)


def clear(out: Path) -> None:
    """Remove what a search wrote; a model and a split only where the search itself had copied them there."""
    for name in (*_FILES, *(_COPIES if _was_copied(out) else ())):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "thumbnails", ignore_errors=True)


def _was_copied(out: Path) -> bool:
    """Whether a search had copied its model into the folder."""
    try:
        return bool(read_record(out / RECIPE_FILE, "recipe").get("copied", False))
    except RecordError:
        return False


def _use(card: ModelCard) -> tuple[object, ...]:
    """What a card says of how the weights are used."""
    return card.name, card.score, card.pool, card.reduction, dict(card.preprocessing), card.classes


def _told(card: ModelCard) -> str:
    return f"{card.name}, score {card.score}, pool {card.pool}, reduction {card.reduction}"


def sha256_images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """Of prepared images and their classes: names may stay while files change."""
    digest = hashlib.sha256(f"{pixels.shape} {labels.tolist()}".encode())
    for image in pixels:
        digest.update(image.tobytes())
    return digest.hexdigest()

"""What is searched: the model and its images, and the run folder that is tied to them."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tavt_kit.checkpoints import is_run, save_model
from tavt_kit.checkpoints.folder import read_run, sha256_tensors
from tavt_kit.core.budget import LEAST_HELD_OUT
from tavt_kit.core.codec import encode
from tavt_kit.core.configuration import Choice
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.parsing import several
from tavt_kit.core.progress import Deadline, Progress, Silent
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, Sample, inherit_split, load_images
from tavt_kit.data.loading import thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.splits import SPLIT_FILE
from tavt_kit.errors import DataError, RecordError
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import FileSession, Session
from tavt_kit.search import Space
from tavt_kit.search.racing import stratified
from tavt_kit.search.space import JointSpace
from tavt_kit.workflows.run_model import images_of, load_given
from tavt_kit.workflows.schedules import listed_schedules
from tavt_kit.workflows.search_config import SearchConfig

RECIPE_FILE = "recipe.json"

_FILES = ("recipe.json", "front.json", "candidates.csv", "kept.json",
          "profile.json", "report.html", "report.md", "report.csv", "report.json")  # fmt: skip
_COPIES = ("model.safetensors", "model.json", "split.json")


@dataclass(frozen=True, slots=True)
class SearchContext:
    """A wrapped model, in eval mode, with its images.

    Args:
        weights: SHA-256 of all tensors, names and shapes.
        joint: Space of further genes; ``None`` for a search of token counts alone.
        alone: Whether schedules alone are proposed, so that ``joint`` makes baselines only.
        judges: Whether it is of the part of val that judges what the other part chose.
        opening: Seconds that opening a session took at most, by precision; ``None`` for the target's own.
        quantized: Int8 sessions of ``variants`` by the layers that run, whose counts are an input.
    """

    config: SearchConfig
    model: AdaptiveViT
    images: ImageSet
    weights: str
    plain: Space
    deadline: Deadline
    joint: JointSpace | None = None
    alone: bool = False
    judges: bool = False
    opened: dict[Choice, Session] = field(default_factory=dict, compare=False)
    opening: dict[str | None, float] = field(default_factory=dict, compare=False)
    variants: dict[object, AdaptiveViT] = field(default_factory=dict, compare=False)
    quantized: dict[tuple[int, tuple[int, ...] | None], FileSession] = field(default_factory=dict, compare=False)

    @property
    def progress(self) -> Progress:
        """Whoever watches."""
        return self.config.progress or Silent()

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.model.require_card()

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's."""
        return Preprocessing.from_record(self.card.preprocessing)

    @property
    def target(self) -> TargetDevice:
        """The target of a search that has one."""
        assert self.config.device is not None  # whoever measures has one
        return self.config.device

    @property
    def space(self) -> Space:
        """What may be proposed."""
        return self.plain if self.joint is None or self.alone else self.joint

    def seeds(self) -> list[TokenSchedule]:
        """The schedules to begin with, read for this model: the user's, then those of an earlier front."""
        front = None if self.config.front is None else Path(self.config.front)
        texts = listed_schedules(self.model, several(self.config.schedule), front)
        return [TokenSchedule.parse(text, self.model.layout) for text in texts]

    def samples(self) -> list[Sample]:
        """Those of val that a search looks at, in an order in which the first of them, however many, are like all.

        Where floors are judged, every other image of each class is kept for that: see ``judge``.
        """
        samples = thin_out(self.images.split("val"), self.config.limit)
        ordered = [samples[index] for index in stratified([sample.label for sample in samples])]
        if self.judge() is None:
            return ordered
        seen, chosen = Counter[int](), list[Sample]()
        for sample in ordered:
            if (seen[sample.label] + sample.label) % 2 == self.judges:
                chosen.append(sample)
            seen[sample.label] += 1
        return chosen

    def judge(self) -> SearchContext | None:
        """The same with the other half of val, which judges the floors; ``None`` where nothing or too little is judged.

        A model that was chosen by its answers looks better on these images than it is, so they cannot prove a floor.
        """
        images = min(len(self.images.split("val")), self.config.limit or 10**9)
        return replace(self, judges=True) if self.config.bounds.floors and images >= 2 * LEAST_HELD_OUT else None

    def ties(self) -> dict[str, Any]:
        """What the answers of a search depend on, besides the schedule."""
        config, joint = self.config, self.joint
        carried: dict[str, Any] = {} if config.table is None else {"profile": config.table.digest}
        if joint is not None:
            genes = ("sizes", "spared", "scores", "precisions", "reductions")
            carried["joint"] = {name: encode(getattr(joint, name)) for name in genes}
        return carried | {
            "model": self.card.name, "weights": self.weights, "preprocessing": dict(self.card.preprocessing),
            "score": self.model.score, "pool": self.model.pool,
            **({} if self.model.reduction == "drop" else {"reduction": self.model.reduction}),
            "data": self.images.name, "split": self.images.sha256, "limit": config.limit,
            "target": None if config.device is None else str(config.device),
            "precision": config.evaluation_precision, "evaluate_on": "torch",
            "screen": config.screen if config.races else 0, "metrics": list(config.metrics),
        }  # fmt: skip

    def check_folder(self) -> None:
        """See that ``out`` may become a run of this model; raises RecordError where it holds another."""
        out = self.config.folder
        if not is_run(out) or (self.config.fresh and _was_copied(out)):
            return
        card, tensors = read_run(out)
        held, asked = _use(card), _use(self.card)
        if sha256_tensors(tensors) != self.weights or held != asked:
            raise RecordError(
                f"{out} is a run of another model ({held[0]}) than {self.config.model_text} ({asked[0]}); choose "
                "another `out`"
            )

    def settle(self) -> bool:
        """Make ``out``, unless it is another's, a run of this model and split; whether the model was copied into it."""
        self.check_folder()
        out, new = self.config.folder, not is_run(self.config.folder)
        if new:
            save_model(out, self.model, self.card)
        inherit_split(out, self.images)
        return new or _was_copied(out)


def open_context(config: SearchConfig, deadline: Deadline) -> SearchContext:
    """The model and the images it was trained on; TavtError where they do not fit, or val cannot give a metric."""
    import numpy as np

    model = load_given(config.model, copied=True).eval()
    model.score = model.score if config.score in (None, "any") else str(config.score)
    model.pool, model.reduction = config.pool or model.pool, config.reduction or model.reduction
    images = _images(config, model)
    images.require_classes(model.require_card().classes)
    available = len(images.split("val"))
    if config.limit is not None and config.limit > available:
        raise DataError(
            f"`limit` asks for {config.limit} images, but the split val of {images.name} has {available}; give "
            "at most that many, or no limit"
        )
    least = None if config.min_patches is None else model.prefix + config.min_patches
    weights = sha256_tensors(model.state_dict())
    context = SearchContext(config, model, images, weights, Space(model.layout, least), deadline)
    context = replace(context, plain=context.plain.holding(context.seeds()))
    for half in filter(None, (context, context.judge())):
        Scoring(config.metrics, np.array([sample.label for sample in half.samples()]), context.card.classes)
    return context


def _images(config: SearchConfig, model: AdaptiveViT) -> ImageSet:
    """The images to search on: by the split of the model's run or of a run folder, or divided anew."""
    data, run, in_hand = config.data, model.folder, isinstance(config.model, AdaptiveViT)
    has_split = run is not None and (run / SPLIT_FILE).exists()
    if isinstance(data, ImageSet):
        return inherit_split(run, data) if run is not None and has_split else data
    if in_hand and data is not None and is_run(data):
        return images_of(Path(data), None)
    if run is not None and (has_split or not in_hand):
        return images_of(run, data)
    if data is None:
        raise DataError("a search needs images: give `data` with a folder, a CSV list, elpv or textile")
    return load_images(str(data), seed=config.seed)


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
    """What a card says of how the weights are used, the first for people."""
    said = f"{card.name}, score {card.score}, pool {card.pool}, reduction {card.reduction}"
    return said, dict(card.preprocessing), card.classes

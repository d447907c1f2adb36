"""What is searched: the model and its images, and the run folder that is tied to them."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.checkpoints import is_run, save_model
from tavt_kit.checkpoints.folder import read_run, sha256_tensors
from tavt_kit.core.budget import LEAST_HELD_OUT, Budget
from tavt_kit.core.codec import encode
from tavt_kit.core.configuration import Choice
from tavt_kit.core.deadline import Deadline
from tavt_kit.core.device import TargetDevice, read_precision
from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.model_card import ModelCard
from tavt_kit.core.parsing import several
from tavt_kit.core.progress import Progress, Silent
from tavt_kit.core.records import read_record
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.data import ImageSet, Sample, inherit_split, load_images
from tavt_kit.data.loading import thin_out
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.data.splits import SPLIT_FILE
from tavt_kit.errors import BudgetError, DataError, ParameterError, RecordError, TargetError
from tavt_kit.evaluation.metrics import Scoring
from tavt_kit.models.wrap import AdaptiveViT
from tavt_kit.runtimes import FileSession, Session
from tavt_kit.runtimes.available import refuse_modes
from tavt_kit.search import ALGORITHMS, Objectives, Space
from tavt_kit.search.racing import stratified
from tavt_kit.search.space import JointSpace
from tavt_kit.workflows.run_model import images_of, open_given
from tavt_kit.workflows.schedules import listed_schedules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PROFILE_FILE = "profile.json"

GENES = ("image-size", "layers", "reduction", "precision")
"""What is searched beside token counts, unless it is fixed; and the score, where any is asked for."""

SHORT = 15 * 60.0
"""Seconds below which all layers run, as each number of layers has a quantized graph of its own, 15 s and more of work;
and one precision alone has a table of layer times, from which the others follow by two whole passes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """The parameters of ``search``, read.

    Raises:
        TavtError: Parameters that contradict each other, or a number out of range.
    """

    model: str | AdaptiveViT
    out: Path
    data: str | ImageSet | None
    target: TargetDevice | None
    budget: Budget
    weights: str | None
    schedules: tuple[str, ...]
    front: Path | None
    algorithm: str
    objectives: tuple[str, ...]
    score: str | None
    pool: str | None
    image_size: int | None
    evaluations: int
    population: int | None
    max_seconds: float | None
    final: int
    seed: int
    limit: int | None
    allow_unreadable: int
    fresh: bool
    engine: str
    workers: int | None
    ray_address: str | None
    screen: int
    evaluate_on: str | None
    profile: LatencyTable | None
    baselines: bool
    user_baselines: tuple[str, ...]
    fix: tuple[str, ...]
    reduction: str | None
    min_patches: int | None
    table_seconds: float
    table_points: int
    measure_seconds: float

    def __post_init__(self) -> None:
        if not (self.table_seconds > 0 and self.measure_seconds > 0):
            given = f"`table_seconds` {self.table_seconds:g} and `measure_seconds` {self.measure_seconds:g}"
            raise ParameterError(f"a measurement needs some time, got {given}")
        self._check_algorithm()
        self._check_engine()
        if unknown := [gene for gene in self.fix if gene not in (*GENES, "score", "all")]:
            raise ParameterError(f"`fix` takes {', '.join(GENES)} or all, got {unknown[0]!r}")
        self._check_target()
        self._check_memory()
        if self.evaluate_on is not None:
            _ = self.evaluation_device  # refuses what cannot be

    def _check_algorithm(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ParameterError(f"`algorithm` is one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        given = (self.population is not None, self.schedules, self.front is not None, self.weighed.number > 2,
                 self.min_patches is not None)  # fmt: skip
        if self.algorithm == "tavt-official" and any(given):
            raise ParameterError(
                "`algorithm` tavt-official has sizes, first schedules and two objectives of its own, so it takes no "
                "`population`, `schedule`, `front`, `min_patches` or third `objective`; use tavt"
            )

    def _check_engine(self) -> None:
        if self.engine not in ("local", "ray"):
            raise ParameterError(f"`engine` is local or ray, got {self.engine!r}")
        if self.workers is not None and self.workers < 1:
            raise ParameterError(f"`workers` must be at least 1, got {self.workers}")
        if self.ray_address is not None and self.engine != "ray":
            raise ParameterError(f"`ray_address` is for `engine` ray, but the engine is {self.engine}")

    def _check_target(self) -> None:
        timed = [str(limit) for limit in self.budget.of("latency", "throughput")]
        if self.weighed.cost == "predicted":
            timed += [f"`objective` {text}" for text in self.objectives if text in ("latency", "throughput")]
        if self.target is None and timed:
            raise BudgetError(f"a latency is of a machine, so {timed[0]} needs `target`, such as openvino:cpu")

    def _check_memory(self) -> None:
        asked = next((str(limit) for limit in self.budget.of("memory")), None)
        if asked is None:
            return
        if self.target is None:
            raise BudgetError(f"a peak memory is of a machine, so {asked} needs `target`, such as openvino:cpu")
        if self.profile is not None:
            raise BudgetError(
                f"a carried profile knows times alone, so it cannot tell {asked}; search on the target itself, or "
                "leave memory out and look at it there"
            )

    @property
    def genes(self) -> tuple[str, ...]:
        """What is searched beside token counts as far as the config goes: what is given or fixed is not.

        Precision is a gene where time counts on a target of this machine that begins with f32 and may know int8.
        Agreement with the dense model means nothing where there are several, and a carried profile is of one model.
        In a short time all layers run.
        """
        if "all" in self.fix or "agreement" in self.metrics or self.profile is not None:
            return ()
        target = self.target
        quantizes = target is not None and target.runtime in ("openvino", "onnxruntime") and target.is_cpu
        free = {
            "layers": not self.is_short,
            "reduction": self.reduction is None,
            "score": self.score == "any",
            "precision": quantizes and self.is_timed and target is not None and target.precision == "f32",
        }
        return tuple(gene for gene in (*GENES, "score") if gene not in self.fix and free.get(gene, True))

    @property
    def is_short(self) -> bool:
        """Whether the time does for one table and all layers alone."""
        return self.max_seconds is not None and self.max_seconds < SHORT

    @property
    def alone(self) -> str:
        """Why the search proposes schedules alone, so that its genes make baselines only; empty where it does not."""
        if self.algorithm not in ("nsga2", "random"):
            return f"The algorithm {self.algorithm} proposes schedules alone"
        if self.engine != "local" or (self.workers or 1) > 1:
            return "Workers evaluate schedules alone"
        if self.evaluation_device.runtime != "torch":
            return f"{self.evaluate_on} evaluates schedules alone"
        return ""

    @property
    def model_text(self) -> str:
        """What the model was asked for by, or its name."""
        return str(Path(self.model)) if isinstance(self.model, str) else self.model.require_card().name

    @property
    def asks_memory(self) -> bool:
        """Whether peak memory is limited, so that the finalists' is measured."""
        return bool(self.budget.of("memory"))

    @property
    def is_here(self) -> bool:
        """Whether the target is on this machine: a carried profile stands for one that is not."""
        return self.target is not None and self.profile is None

    @property
    def is_timed(self) -> bool:
        """Whether latency is what the search minimises or limits, so that the target's layers are timed first."""
        if self.target is None:
            return False
        if self.weighed.cost == "predicted" or self.budget.of("latency", "throughput"):
            return True
        return self.weighed.cost is None and not self.budget.of("flops")

    @property
    def weighed(self) -> Objectives:
        """The objectives, read."""
        return Objectives.parse(self.objectives)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that an objective or a floor is about; top-1 where no other leads."""
        floors = ("top1" if limit.quantity == "drop" else limit.name for limit in self.budget.floors)
        return tuple(dict.fromkeys((self.weighed.metric or "top1", *self.weighed.metrics, *floors)))

    @property
    def precision(self) -> str:
        """In which what was measured in the end is evaluated: bf16 where the target runs it, else f32."""
        return "bf16" if self.target is not None and self.target.precision == "bf16" else "f32"

    @property
    def evaluation_device(self) -> TargetDevice:
        """By which runtime, and in which precision, the search itself evaluates.

        Where ``evaluate_on`` does not say: torch, in bf16 where that is faster and finalists are evaluated once more.

        Raises:
            ParameterError: Neither torch nor openvino, or another precision than f32 and bf16.
        """
        if self.evaluate_on is None:
            return TargetDevice("torch", "cpu", precision=self._quick_precision)
        runtime, _, precision = self.evaluate_on.strip().lower().partition(":")
        precision = read_precision(precision or "f32")
        if runtime not in ("torch", "openvino") or precision not in ("f32", "bf16"):
            raise ParameterError(
                f"`evaluate_on` is torch or openvino, with f32 or bf16, such as openvino:bf16, got {self.evaluate_on!r}"
            )
        threads = self.target.threads if self.target is not None and self.target.is_cpu else None
        return TargetDevice(runtime, "cpu", threads=threads, precision=precision)

    @property
    def _quick_precision(self) -> str:
        import torch

        from tavt_kit.runtimes.on_torch import is_bf16_faster

        if "precision" in self.genes:  # where bf16 is a gene, f32 has to answer for itself
            return self.precision
        return "bf16" if self.is_timed and is_bf16_faster(torch.device("cpu")) else self.precision

    @property
    def races(self) -> bool:
        """Whether candidates may be stopped early: top-1 alone is told of a part of the images.

        The official algorithm evaluates everything in full.
        """
        plain = self.metrics == ("top1",) and self.weighed.number == 2
        return self.screen > 0 and plain and self.algorithm != "tavt-official"

    @property
    def precisions(self) -> dict[str, str]:
        """How images were evaluated, as ``front.json`` says it."""
        found = {
            "search": self.evaluation_device.precision,
            "final": self.precision,
            "runtime": self.evaluation_device.runtime,
        }
        return found | ({"screen": str(self.screen)} if self.races else {})

    def as_record(self) -> dict[str, Any]:
        """What ``recipe.json`` says of it."""
        plain = ("weights", "schedules", "front", "algorithm", "objectives", "evaluations", "population", "max_seconds",
                 "final", "seed", "limit", "screen", "genes", "engine", "workers")  # fmt: skip
        return {
            **{name: encode(getattr(self, name)) for name in plain},
            "model": self.model_text,
            "data": self.data if isinstance(self.data, str | None) else self.data.name,
            "target": None if self.target is None else str(self.target),
            "budgets": self.budget.texts(),
            "evaluate_on": f"{self.evaluation_device.runtime}:{self.evaluation_device.precision}",
            "profile": None if self.profile is None else self.profile.digest,
            "baselines": [*(["own"] if self.baselines else []), *self.user_baselines],
        }


def read_profile(path: Path, asked: str | None, precision: str | None) -> LatencyTable:
    """The table of ``profile.json``, of any machine.

    Raises:
        RecordError: It is no profile, or half of one.
        TargetError: It is of another target than the one asked for.
    """
    table = LatencyTable.from_record(read_record(path / PROFILE_FILE if path.is_dir() else path, "profile"))
    if asked is not None or precision is not None:
        found = table.target
        wanted = TargetDevice.parse(asked or f"{found.runtime}:{found.processor}", precision=precision)
        if wanted != (found if wanted.threads is not None else replace(found, threads=None)):
            raise TargetError(
                f"the profile {path} is of {found}, but {wanted} is asked for; leave `target` and `precision` "
                "out, or make a profile of that target"
            )
    return table


def read_target(
    target: str | TargetDevice | None, precision: str | None, profile: Path | str | LatencyTable | None
) -> tuple[TargetDevice | None, LatencyTable | None]:
    """Where it will run, and the table that was carried from there, if one was.

    Raises:
        TargetError: The target cannot be read, or is another than the table's.
        RecordError: The table cannot be read.
        ParameterError: A precision of no target.
    """
    text = None if target is None else str(target)
    table = read_profile(Path(profile), text, precision) if isinstance(profile, str | Path) else profile
    if text is None:
        if table is None and precision is not None:
            raise ParameterError(f"`precision` is the target's, got {precision} without a target; give `target` too")
        return None if table is None else table.target, table
    device = TargetDevice.parse(text, precision=precision).resolved()
    refuse_modes(device)
    return device if table is None else table.target, table


def read_genes(fix: str | Sequence[str]) -> tuple[str, ...]:
    """The names of genes, each once: one text or several, with commas between them."""
    genes = [gene.strip().lower().replace("_", "-") for text in several(fix) for gene in text.split(",")]
    return tuple(dict.fromkeys(gene for gene in genes if gene))


RECIPE_FILE = "recipe.json"

_FILES = ("recipe.json", "front.json", "candidates.csv", "kept.json",
          "profile.json", "report.html", "report.md", "report.csv", "report.json")  # fmt: skip
_COPIES = ("model.safetensors", "model.json", "split.json")


@dataclass(frozen=True, slots=True)
class SearchContext:
    """A model with its images.

    Args:
        model: Wrapped model, in eval mode, on the CPU.
        images: Images with the split that the model was trained on.
        weights: SHA-256 of all tensors, names and shapes.
        plain: Schedules of the model as it is.
        opened: Sessions that stay open on the target.
        opening: Seconds that opening a session took at most, by precision; ``None`` for the target's own.
        joint: Space of further genes; ``None`` for a search of token counts alone.
        alone: Whether schedules alone are proposed, so that ``joint`` makes baselines only.
        variants: Models as these genes want them, as far as they were made.
        quantized: Int8 sessions of these by the layers that run, whose counts are an input.
        deadline: Moment at which the search has to have ended.
        judges: Whether it is of the part of val that judges what the other part chose.
    """

    model: AdaptiveViT
    images: ImageSet
    weights: str
    plain: Space
    config: SearchConfig
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
    def target(self) -> TargetDevice:
        """The target of a search that has one."""
        assert self.config.target is not None  # whoever measures has one
        return self.config.target

    @property
    def space(self) -> Space:
        """What may be proposed."""
        return self.plain if self.joint is None or self.alone else self.joint

    @property
    def further_precisions(self) -> tuple[str, ...]:
        """The precisions that are genes, beside the target's own."""
        return () if self.joint is None else self.joint.precisions[1:]

    @property
    def untrained_sizes(self) -> list[int]:
        """Image sizes, in pixels a side, that are looked at though the weights were never trained for them."""
        sizes = () if self.joint is None else self.joint.sizes[1:]
        return [width for _, width in sizes if width not in self.card.image_sizes]

    def seeds(self) -> list[TokenSchedule]:
        """The schedules to begin with, read for this model: the user's, then those of an earlier front."""
        texts = listed_schedules(self.model, self.config.schedules, self.config.front)
        return [TokenSchedule.parse(text, self.model.layout) for text in texts]

    def check_metrics(self) -> None:
        """Raise DataError for a metric that the images of val cannot give."""
        import numpy as np

        for context in (self, self.judge()):
            if context is not None:
                labels = np.array([sample.label for sample in val_samples(context)])
                Scoring(self.config.metrics, labels, self.card.classes)

    def judge(self) -> SearchContext | None:
        """The same with the other half of val, which judges the floors; ``None`` where nothing or too little is judged.

        A model that was chosen by its answers looks better on these images than it is, so they cannot prove a floor.
        """
        images = min(len(self.images.split("val")), self.config.limit or 10**9)
        return replace(self, judges=True) if self.config.budget.floors and images >= 2 * LEAST_HELD_OUT else None

    def ties(self) -> dict[str, Any]:
        """What the answers of a search depend on, besides the schedule."""
        config = self.config
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
    weights = sha256_tensors(model.state_dict())
    context = SearchContext(
        model, images, weights, Space(model.layout, least), config, progress=progress, deadline=deadline
    )
    return replace(context, plain=context.plain.holding(context.seeds()))


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


def val_samples(context: SearchContext) -> list[Sample]:
    """Those of val that a search looks at, in an order in which the first of them, however many, are like all.

    Where floors are judged, every other image of each class is kept for that: ``SearchContext.judge``.
    """
    samples = thin_out(context.images.split("val"), context.config.limit)
    ordered = [samples[index] for index in stratified([sample.label for sample in samples])]
    if context.judge() is None:
        return ordered
    seen, found = Counter[int](), list[Sample]()
    for sample in ordered:
        if (seen[sample.label] + sample.label) % 2 == context.judges:
            found.append(sample)
        seen[sample.label] += 1
    return found


def check_place(context: SearchContext) -> None:
    """See that the output folder may become a run of this model and split, before anything is written there.

    Raises:
        RecordError: The folder holds another model.
    """
    config, out = context.config, context.config.out
    if not is_run(out) or (config.fresh and _was_copied(out)):
        return
    card, tensors = read_run(out)
    if sha256_tensors(tensors) != context.weights or _use(card) != _use(context.card):
        raise RecordError(
            f"{out} is a run of another model ({_told(card)}) than {config.model_text} ({_told(context.card)}); "
            "choose another `out`"
        )


def settle(context: SearchContext) -> bool:
    """Make the output folder a run of this model and split, or refuse it if it is another's.

    Returns:
        Whether the model was copied into it, now or by an earlier run of this search.

    Raises:
        RecordError: The folder holds another model.
        DataError: The folder holds another split.
    """
    check_place(context)
    out, new = context.config.out, not is_run(context.config.out)
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

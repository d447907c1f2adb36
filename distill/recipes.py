"""Recipes: everything that decides what a training run computes. Values; a run's record holds them in full.

They come by name from TOML files beside the code, or from users' files. A file holds values by the names of
``TrainRecipe`` or ``DistillRecipe`` and its parts; ``base`` names another recipe to start from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from tavt_kit.core.codec import decode, describe
from tavt_kit.core.parsing import parse_toml, user_path
from tavt_kit.distill.options import (
    DataOptions,
    Objective,
    OptimizerOptions,
    TrainingOptions,
    require,
    require_known,
    require_ranges,
)
from tavt_kit.errors import RecordError, TrainingError, UnknownName, did_you_mean

FAMILIES = ("vit", "ffvt", "transfg", "mixvit_hybrid", "pim", "vitae", "vitaev2")
"""What a recipe can be meant for."""


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """Fine-tuning. Presets are made by ``train_recipe``.

    Args:
        name: Where the values come from.
        family: Family of models the recipe is meant for, one of ``FAMILIES``; ``None`` is any.
        image_size: Pixels a side that the recipe was made for, for a model given by name; ``None`` is the model's own.
        evaluation: Entries of the model's preprocessing that the recipe replaces, for evaluation and for what
            ``reading`` leaves open.
        probe: Whether the head is fitted to cached features first, its penalty chosen by ``val`` accuracy.
        blocks: Last blocks that train with the head; ``"all"`` trains everything, 0 nothing but the probe.
        drop_path: Probability that training leaves out the last block's branches, rising from 0 at the first.
        dropout: Dropout of position embeddings and feed-forward halves.
        schedule: Tokens that each layer keeps while training, as text: the network learns for this one schedule.
        objective: Loss that is minimised.
        optimisation: Optimiser, steps and learning rates.
        reading: Training images: how they are read.
        running: Machinery: precision, averaging, selection.
        seed: Seed of everything random.
        limit: Most images of each split that are read.

    Raises:
        UnknownName: No such family.
        TrainingError: A value out of its range.
    """

    name: str = "probe"
    family: str | None = None
    image_size: int | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    probe: bool = True
    blocks: int | str = 0
    drop_path: float = 0.0
    dropout: float = 0.0
    schedule: str = "dense"
    objective: Objective = field(default_factory=Objective)
    optimisation: OptimizerOptions = field(default_factory=OptimizerOptions)
    reading: DataOptions = field(default_factory=DataOptions)
    running: TrainingOptions = field(default_factory=TrainingOptions)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        require_known(self, family=FAMILIES)
        require_ranges(self, drop_path="[0, 1)", dropout="[0, 1)")
        loss, images = self.objective.loss, self.optimisation.batch // self.running.accumulation
        said = f"blocks to train are a number from 0 on, or all, got {self.blocks!r}"
        require(self.blocks == "all" or (isinstance(self.blocks, int) and self.blocks >= 0), said)
        said = "a recipe that trains no blocks fits the head by a probe; give `blocks` or `probe`"
        require(self.blocks != 0 or self.probe, said)
        require(
            self.schedule == "dense" or (self.blocks != 0 and loss in ("cross_entropy", "features")),
            "a `schedule` is trained step by step by the loss cross_entropy or features, got "
            f"schedule={self.schedule}, blocks={self.blocks}, loss={loss}; leave it out, or give `blocks`",
        )
        said = f"mixing needs at least two images at once, got {images}; use a larger `batch` or less `accumulation`"
        require(loss not in ("mixvit_pure", "mixvit_hybrid") or images >= 2, said)
        said = f"mixup and cutmix need the loss cross_entropy, because {loss} reads whole labels; set both to 0"
        require(not self.reading.mixes or loss == "cross_entropy", said)

    @property
    def probe_only(self) -> bool:
        """Whether nothing is optimised step by step."""
        return self.blocks == 0

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready; a probe optimises nothing step by step."""
        head = {"recipe": self.name, "seed": self.seed, "limit": self.limit, "evaluation": dict(self.evaluation)}
        if self.probe_only:
            return {**head, "precision": self.running.precision}
        own = {"probe": self.probe, "blocks": self.blocks, "drop_path": self.drop_path, "dropout": self.dropout}
        if self.schedule != "dense":  # as runs had it before there was a choice
            own["schedule"] = self.schedule
        settings = {**asdict(self.objective.settled()), **asdict(self.optimisation)}
        return {**head, **own, **settings, **self.reading.as_record(), **asdict(self.running)}


@dataclass(frozen=True, slots=True)
class DistillRecipe:
    """In-place distillation. Presets are made by ``distill_recipe``.

    Args:
        name: Where the values come from.
        bound: Largest share of tokens a layer may drop.
        sampling: How random sub-networks are drawn: bound (each layer), ratio (tapers), stages (three drops), curve
            (late) or dense (none, nor the smallest); see ``Sampler``.
        schedules: As text; if any, sub-networks are these instead.
        image_sizes: Smaller sizes, pixels a side, that the network learns too (see ``image_sizes``).
        sub_networks: Random sub-networks per step, beside the full and the smallest one (``num_sandwich``).
        kl: Direction of the divergence, ``"reverse"`` (official) or ``"forward"``.
        temperature: Temperature of the divergence.
        layer_dropout: Probability that a layer is left out, in the full network too (official: 0.2).
        teacher_weight: Share of the full network's term that is learnt from an external teacher, where there is one.
        taught: Networks that an external teacher teaches: full, which the sub-networks then learn from, or all.
        chunk: Images that go through the networks at a time; ``None`` decides by the device.
        optimisation: Optimiser, steps and learning rates.
        reading: Training images: how they are read.
        running: Machinery: precision, averaging, selection.
        seed: Seed of everything random.
        limit: Most images of each split that are read.

    Raises:
        UnknownName: A teacher that teaches others.
    """

    name: str = "modern"
    bound: float = 0.4
    sampling: str = "bound"
    schedules: tuple[str, ...] = ()
    image_sizes: tuple[int, ...] = ()
    sub_networks: int = 1
    kl: str = "reverse"
    temperature: float = 1.0
    layer_dropout: float | None = None
    teacher_weight: float = 0.5
    taught: str = "full"
    chunk: int | None = None
    optimisation: OptimizerOptions = field(default_factory=OptimizerOptions)
    reading: DataOptions = field(default_factory=DataOptions)
    running: TrainingOptions = field(default_factory=TrainingOptions)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        # Every other value is checked by the sampler and the rule that are made of it.
        require_known(self, taught=("full", "all"))

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready."""
        own = {key: list(value) if isinstance(value, tuple) else value
               for key, value in asdict(self).items() if key not in ("name", *parts_of(self))}  # fmt: skip
        if not self.image_sizes:  # a run of one size reads as it always did
            del own["image_sizes"]
        if self.taught == "full":
            del own["taught"]
        settings = {**asdict(self.optimisation), **self.reading.as_record(), **asdict(self.running)}
        return {"recipe": self.name, **own, **settings}


_Changed = TypeVar("_Changed")

_RESETS: Mapping[str, Mapping[str, Any]] = {
    "steps": {"epochs": None, "cooldown_epochs": None},
    "warmup": {"warmup_epochs": None},
    "warmup_epochs": {"warmup": None},
    "cooldown": {"cooldown_epochs": None},
    "loss": {"loss_weights": {}},
}
"""What is asked for -> what the recipe says of the same thing in another way, and that no longer counts."""


def changed(recipe: _Changed, changes: Mapping[str, Any]) -> _Changed:
    """A recipe with some values changed, by their names in it or in its parts.

    None changes nothing; ``"none"`` is None where that is a value; of a table, the entries that are given change.

    Raises:
        TrainingError: A name that no part has, a value of another type, or one out of its range.
        UnknownName: A value that is none of the known ones.

    Example:
        >>> from tavt_kit.distill.recipes import TrainRecipe
        >>> changed(TrainRecipe(), {"lr": 0.1, "smoothing": 0.2, "seed": 3}).objective.smoothing
        0.2
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if unknown := sorted(set(given) - set(names_of(recipe))):
        names = sorted(names_of(recipe))
        near = [match for name in unknown for match in difflib.get_close_matches(name, names, n=1)]
        meant = f" (did you mean {', '.join(near)}?)" if near else ""
        raise TrainingError(f"a recipe has no {', '.join(unknown)}{meant}; it has {', '.join(names)}")
    resets = {other: value for key in given for other, value in _RESETS.get(key, {}).items()}

    def replaced(value: Any) -> Any:
        hints = get_type_hints(type(value))
        fresh = {key: resets.get(key, getattr(value, key)) for key in hints if key in resets or key in given}
        read = {key: _read(key, given[key], hints[key], fresh[key]) for key in fresh if key in given}
        return replace(value, **{**fresh, **read})

    inner = {name: replaced(part) for name, part in parts_of(recipe).items()}
    renewed: _Changed = replace(replaced(recipe), **inner)
    return renewed


def names_of(recipe: Any) -> tuple[str, ...]:
    """The names of all values, those of the parts included."""
    parts = parts_of(recipe)
    own = [f.name for f in fields(recipe) if f.name not in parts]
    return (*own, *(f.name for part in parts.values() for f in fields(part)))


def parts_of(recipe: Any) -> dict[str, Any]:
    """The values inside a recipe that have fields of their own."""
    return {f.name: part for f in fields(recipe) if is_dataclass(part := getattr(recipe, f.name))}


def _read(key: str, value: Any, hint: Any, before: Any) -> Any:
    """A value as its field has it."""
    if value == "none" and NoneType in get_args(hint):
        return None
    # What one number means where several may stand is the field's own affair.
    kind = float if hint == tuple[float, ...] and not isinstance(value, list | tuple) else hint
    try:
        read = decode(kind, str(value) if isinstance(value, Path) else value)
    except RecordError:
        raise TrainingError(f"{key} of a recipe must be {describe(hint)}, got {value!r}") from None
    return {**before, **read} if isinstance(read, Mapping) and isinstance(before, Mapping) else read


_Recipe = TypeVar("_Recipe", TrainRecipe, DistillRecipe)

_FOLDER = Path(__file__).resolve().parent / "presets"
_PRESETS: Mapping[type, tuple[str, Path]] = {
    TrainRecipe: ("training", _FOLDER),
    DistillRecipe: ("distillation", _FOLDER / "distill"),
}
"""What a recipe is for, and the folder of those that come with the kit."""
_FLAGS_ONLY = ("name", "seed", "limit")


def recipe_names(family: str | None = None, kind: type = TrainRecipe) -> tuple[str, ...]:
    """The names of all recipes of a kind; of those that a model family can use, those for any model included."""
    names = sorted(file.stem for file in _PRESETS[kind][1].glob("*.toml"))
    return tuple(name for name in names if family is None or _named(TrainRecipe(), name).family in (None, family))


def _named(start: _Recipe, name: str, above: tuple[str, ...] = ()) -> _Recipe:
    """What a file says on top of the recipe of its ``base``, or of ``start`` where it names none."""
    if name in above:
        raise TrainingError(f"recipes start from one another in a circle: {', '.join((*above, name))}; break it")
    what, folder = _PRESETS[type(start)]
    file = user_path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    names = recipe_names(kind=type(start))
    if not name.endswith(".toml") and name not in names:
        meant = did_you_mean(name, names, most=3, cutoff=0.5)
        raise UnknownName(f"a {what} recipe is one of {', '.join(names)}, or a TOML file, got {name!r}{meant}")
    try:
        values = parse_toml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"cannot read the recipe {file}: {error.strerror}") from None
    except ValueError as error:
        raise TrainingError(f"the recipe {file} is not a TOML file: {error}") from None
    base = values.pop("base", None)
    if not isinstance(base, str | None):
        raise TrainingError(f"base of the recipe {name} must be the name of another, got {base!r}")
    if flags := sorted(set(values) & {*_FLAGS_ONLY}):
        raise TrainingError(f"the recipe {name} sets {', '.join(flags)}, which are no part of a recipe; remove them")
    below = start if base is None else _named(start, base, (*above, name))
    try:
        return changed(below, {"name": file.stem, **values})
    except (TrainingError, UnknownName) as error:
        raise type(error)(f"the recipe {name} cannot be used: {error}") from None


def train_recipe(name: str = "probe", **changes: Any) -> TrainRecipe:
    """The recipe of a name, or of the path of a TOML file, ``changed``.

    The size that images are resized to before they are cropped keeps its proportion to ``image_size``, unless both
    are given.

    Raises:
        UnknownName: No such recipe, or a value that is none of the known ones.
        TrainingError: A file that cannot be read, an unknown name in it, or a value out of its range.

    Example:
        >>> train_recipe("tavt-cub", image_size=224).reading.resize
        (300, 300)
    """
    _refuse_both(changes)
    recipe = _named(TrainRecipe(), name)
    size, before, resize = changes.get("image_size"), recipe.image_size, recipe.reading.resize
    if size is not None and before is not None and resize is not None and changes.get("resize") is None:
        edges = [round(edge * size / before) for edge in (resize if isinstance(resize, tuple) else (resize,))]
        changes["resize"] = tuple(edges) if isinstance(resize, tuple) else edges[0]
    return changed(recipe, changes)


def distill_recipe(name: str = "modern", **changes: Any) -> DistillRecipe:
    """The recipe of a name, ``"modern"``, ``"merge"`` or ``"tavt"``, or of the path of a TOML file, ``changed``.

    Raises:
        TavtError: As ``train_recipe``.

    Example:
        >>> distill_recipe("tavt", steps=10, bound=0.3).optimisation.steps
        10
    """
    _refuse_both(changes)
    return changed(_named(DistillRecipe(), name), changes)


def _refuse_both(changes: Mapping[str, Any]) -> None:
    """Epochs decide the steps."""
    if changes.get("epochs") not in (None, "none") and changes.get("steps") is not None:
        raise TrainingError(
            f"`epochs={changes['epochs']}` decides the updates, so leave out `steps={changes['steps']}`"
        )

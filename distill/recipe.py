"""Recipes: everything that decides what a training run computes. Values; a run's record holds them in full."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tavt_kit.distill.sampling import Bound
from tavt_kit.distill.schedules import LearningRate
from tavt_kit.errors import TrainingError, UnknownName

__all__ = [
    "DISTILL_RECIPES",
    "TRAIN_RECIPES",
    "DistillRecipe",
    "OPTIMISERS",
    "Optimisation",
    "TrainRecipe",
    "distill_recipe",
]

TRAIN_RECIPES = ("probe", "finetune")
OPTIMISERS = ("adamw", "sgd")


@dataclass(frozen=True, slots=True)
class Optimisation:
    """How weights are moved.

    Args:
        steps: Updates.
        batch: Pictures per update.
        optimiser: ``"adamw"`` or ``"sgd"`` (with momentum).
        lr: Highest learning rate.
        warmup: Updates until it is reached; ``None`` is a twentieth of the steps (the official 500 of 10,000).
        decay: After that: ``"cosine"``, ``"linear"`` or ``"constant"``.
        weight_decay: Of matrices; biases, norms and tables are not decayed.
        momentum: Of SGD.
        clip: Largest total gradient norm.
        augment: See ``augment.AUGMENTATIONS``.
        precision: ``"f32"`` or ``"bf16"``; ``None`` is decided by the machine, and the decision recorded.
        freeze: Leading layers that are not trained, the embedding with them; ``None`` is the recipe's own choice.

    Raises:
        TrainingError: A value out of its range.
    """

    steps: int = 300
    batch: int = 16
    optimiser: str = "adamw"
    lr: float = 1e-4
    warmup: int | None = None
    decay: str = "cosine"
    weight_decay: float = 0.05
    momentum: float = 0.9
    clip: float = 1.0
    augment: tuple[str, ...] = ("flip",)
    precision: str | None = None
    freeze: int | None = None

    def __post_init__(self) -> None:
        # The freeze is checked by the model it is meant for, the augmentations against the size of its pictures.
        self.learning_rate()
        if self.optimiser not in OPTIMISERS:
            raise TrainingError(f"the optimiser must be one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}")
        if self.batch < 1:
            raise TrainingError(f"a batch takes at least one picture, got {self.batch}")
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise TrainingError(f"the gradient norm must be clipped above 0, got {self.clip}")
        if self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise TrainingError(
                f"weight decay is at least 0 and momentum in [0, 1), got {self.weight_decay} and {self.momentum}"
            )

    def learning_rate(self) -> LearningRate:
        """Of every update.

        Raises:
            TrainingError: Rate, warm-up, steps or decay cannot be.
        """
        warmup = self.steps // 20 if self.warmup is None else self.warmup
        return LearningRate(self.lr, warmup, self.steps, self.decay)

    def settled(self, *, precision: str, freeze: int, augment: tuple[str, ...]) -> Optimisation:
        """Nothing left open: what a run records."""
        return replace(self, warmup=self.learning_rate().warmup, precision=precision, freeze=freeze, augment=augment)


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """Fine-tuning.

    Args:
        name: ``"probe"`` fits the head alone; ``"finetune"`` goes on with the last blocks.
        blocks: Last blocks that ``finetune`` trains.
        optimisation: Of ``finetune``.
        seed: Of everything random.
        limit: At most so many pictures of each split.

    Raises:
        UnknownName: No such recipe.
    """

    name: str = "probe"
    blocks: int = 4
    optimisation: Optimisation = field(default_factory=Optimisation)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.name not in TRAIN_RECIPES:
            raise UnknownName(f"a training recipe is one of {', '.join(TRAIN_RECIPES)}, got {self.name!r}")

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready; a probe optimises nothing step by step."""
        head = {"recipe": self.name, "seed": self.seed, "limit": self.limit}
        if self.name == "probe":
            return {**head, "precision": self.optimisation.precision}
        return {**head, "blocks": self.blocks, **_flat(self.optimisation)}


@dataclass(frozen=True, slots=True)
class DistillRecipe:
    """In-place distillation.

    Args:
        name: Where the values come from: ``"modern"`` or ``"tavt"``.
        bound: Largest share of tokens a layer may drop, or how it grows (``"0.2:0.6"``; see ``Bound.parse``).
        sampling: How random sub-networks are drawn: ``"bound"`` or ``"ratio"`` (see ``Sampler``).
        schedules: As text; if any, sub-networks are these instead.
        sub_networks: Random sub-networks per step, beside the full and the smallest one (``num_sandwich``).
        kl: ``"reverse"`` (official) or ``"forward"``.
        temperature: Of the divergence.
        layer_dropout: Probability that a layer is left out, in the full network too (official: 0.2).
        feature_weight: Of ``feature_loss`` beside the divergence; 0 for none.
        feature_layers: Whose tokens that compares; the last layer but one by default.
        attention_weight: Of ``attention_loss`` beside the divergence; 0 for none.
        attention_layers: Whose maps that compares; the last layer but one by default.
        teacher_weight: Share of the full network's term that is learnt from an external teacher, where there is one.
        chunk: Images that go through the networks at a time; ``None`` decides by the device.
        optimisation: The rest.
        seed: Of everything random.
        limit: At most so many pictures of each split.

    Raises:
        TrainingError: A bound that cannot be.
    """

    name: str = "modern"
    bound: float | str = 0.4
    sampling: str = "bound"
    schedules: tuple[str, ...] = ()
    sub_networks: int = 1
    kl: str = "reverse"
    temperature: float = 1.0
    layer_dropout: float | None = None
    feature_weight: float = 0.0
    feature_layers: tuple[int, ...] = ()
    attention_weight: float = 0.0
    attention_layers: tuple[int, ...] = ()
    teacher_weight: float = 0.5
    chunk: int | None = None
    optimisation: Optimisation = field(default_factory=Optimisation)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        # Every other value is checked by the sampler and the rule that are made of it.
        Bound.parse(self.bound)

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready."""
        own = {key: list(value) if isinstance(value, tuple) else value
               for key, value in asdict(self).items() if key not in ("name", "optimisation")}  # fmt: skip
        return {"recipe": self.name, **own, **_flat(self.optimisation)}


def _flat(optimisation: Optimisation) -> dict[str, Any]:
    return {**asdict(optimisation), "augment": list(optimisation.augment)}


DISTILL_RECIPES: Mapping[str, DistillRecipe] = MappingProxyType(
    {
        "modern": DistillRecipe(),
        # The official command line, but for its 10,000 steps of 64 pictures.
        "tavt": DistillRecipe(
            "tavt",
            bound=0.2,
            sub_networks=2,
            layer_dropout=0.2,
            optimisation=Optimisation(optimiser="sgd", lr=3e-2, weight_decay=0.0, freeze=0),
        ),
    }
)
"""Where the flags of ``distill`` start from."""


def distill_recipe(name: str = "modern", **changes: Any) -> DistillRecipe:
    """A recipe with some values changed, wherever they lie; None changes nothing.

    Raises:
        UnknownName: No such recipe.
        TrainingError: A value out of its range.

    Example:
        >>> distill_recipe("tavt", steps=10, bound=0.3).optimisation.steps
        10
    """
    if name not in DISTILL_RECIPES:
        raise UnknownName(f"a distillation recipe is one of {', '.join(DISTILL_RECIPES)}, got {name!r}")
    recipe = DISTILL_RECIPES[name]
    given = {key: value for key, value in changes.items() if value is not None}
    inner = {key: value for key, value in given.items() if hasattr(recipe.optimisation, key)}
    outer = {key: value for key, value in given.items() if key not in inner}
    return replace(recipe, optimisation=replace(recipe.optimisation, **inner), **outer)

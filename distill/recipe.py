"""Recipes: everything that decides what a training run computes. Values; a run's record holds them in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from tavt_kit.distill.changes import parts_of
from tavt_kit.distill.objective import Objective
from tavt_kit.distill.optimisation import OptimizerOptions
from tavt_kit.distill.reading import DataOptions
from tavt_kit.distill.running import TrainingOptions
from tavt_kit.distill.sampling import Bound
from tavt_kit.errors import TrainingError, UnknownName

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "vit": "a plain Vision Transformer",
        "ffvt": "an FFVT",
        "transfg": "a TransFG",
        "mixvit_hybrid": "Mix-ViT's hybrid model",
        "pim": "a PIM",
        "vitae": "a ViTAE",
        "vitaev2": "a ViTAEv2",
    }
)
"""What a recipe can be meant for: name -> for people."""


@dataclass(frozen=True, slots=True)
class TrainRecipe:
    """Fine-tuning. Presets are made by ``train_recipe``.

    Args:
        name: Where the values come from.
        family: Of models the recipe is meant for, one of ``FAMILIES``; ``None`` is any.
        image_size: Pixels a side that the recipe was made for, for a model given by name; ``None`` is the model's own.
        evaluation: Entries of the model's preprocessing that the recipe replaces, for evaluation and for what
            ``reading`` leaves open.
        probe: Whether the head is fitted to cached features first, its penalty chosen by ``val`` accuracy.
        blocks: Last blocks that train with the head; ``"all"`` trains everything, 0 nothing but the probe.
        drop_path: Probability that training leaves out the last block's branches, rising from 0 at the first.
        dropout: Dropout of position embeddings and feed-forward halves.
        objective: What is minimised.
        optimisation: How.
        reading: Of training images.
        running: Machinery.
        seed: Of everything random.
        limit: At most so many images of each split.

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
    objective: Objective = field(default_factory=Objective)
    optimisation: OptimizerOptions = field(default_factory=OptimizerOptions)
    reading: DataOptions = field(default_factory=DataOptions)
    running: TrainingOptions = field(default_factory=TrainingOptions)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.family is not None and self.family not in FAMILIES:
            raise UnknownName(f"a recipe's family is one of {', '.join(FAMILIES)}, got {self.family!r}")
        if self.blocks != "all" and (not isinstance(self.blocks, int) or self.blocks < 0):
            raise TrainingError(f"blocks to train are a number from 0 on, or all, got {self.blocks!r}")
        if self.blocks == 0 and not self.probe:
            raise TrainingError("a recipe that trains no blocks fits the head by a probe; give `blocks` or `probe`")
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"{name} is a probability below 1, got {getattr(self, name)}")
        images = self.optimisation.batch // self.running.accumulation
        if self.objective.loss in ("mixvit_pure", "mixvit_hybrid") and images < 2:
            raise TrainingError(
                f"mixing needs at least two images at once, got {images}; use a larger `batch` or less `accumulation`"
            )
        if (self.reading.mixup or self.reading.cutmix) and self.objective.loss != "cross_entropy":
            raise TrainingError(
                f"mixup and cutmix need the loss cross_entropy, because {self.objective.loss} reads whole labels; set "
                "both to 0"
            )

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
        how = {**asdict(self.objective.settled()), **asdict(self.optimisation)}
        return {**head, **own, **how, **self.reading.as_record(), **self.running.as_record()}


@dataclass(frozen=True, slots=True)
class DistillRecipe:
    """In-place distillation. Presets are made by ``distill_recipe``.

    Args:
        name: Where the values come from.
        bound: Largest share of tokens a layer may drop, or how it grows (``"0.2:0.6"``; see ``Bound.parse``).
        sampling: How random sub-networks are drawn: bound (each layer), ratio (tapers), stages (three drops) or curve
            (late); see ``Sampler``.
        schedules: As text; if any, sub-networks are these instead.
        image_sizes: Smaller sizes, pixels a side, that the network learns too (see ``image_sizes``).
        sub_networks: Random sub-networks per step, beside the full and the smallest one (``num_sandwich``).
        kl: Direction of the divergence, ``"reverse"`` (official) or ``"forward"``.
        temperature: Temperature of the divergence.
        layer_dropout: Probability that a layer is left out, in the full network too (official: 0.2).
        feature_weight: Weight of ``feature_loss`` beside the divergence; 0 for none.
        feature_layers: Layers, from 0, whose tokens that compares; the last layer but one by default.
        attention_weight: Weight of ``attention_loss`` beside the divergence; 0 for none.
        attention_layers: Layers, from 0, whose maps that compares; the last layer but one by default.
        teacher_weight: Share of the full network's term that is learnt from an external teacher, where there is one.
        chunk: Images that go through the networks at a time; ``None`` decides by the device.
        optimisation: How weights are moved.
        reading: Of training images.
        running: Machinery.
        seed: Of everything random.
        limit: At most so many images of each split.

    Raises:
        TrainingError: A bound that cannot be.
    """

    name: str = "modern"
    bound: float | str = 0.4
    sampling: str = "bound"
    schedules: tuple[str, ...] = ()
    image_sizes: tuple[int, ...] = ()
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
    optimisation: OptimizerOptions = field(default_factory=OptimizerOptions)
    reading: DataOptions = field(default_factory=DataOptions)
    running: TrainingOptions = field(default_factory=TrainingOptions)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        # Every other value is checked by the sampler and the rule that are made of it.
        Bound.parse(self.bound)

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready."""
        own = {key: list(value) if isinstance(value, tuple) else value
               for key, value in asdict(self).items() if key not in ("name", *parts_of(self))}  # fmt: skip
        if not self.image_sizes:  # a run of one size reads as it always did
            del own["image_sizes"]
        how = {**asdict(self.optimisation), **self.reading.as_record(), **self.running.as_record()}
        return {"recipe": self.name, **own, **how}

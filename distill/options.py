"""Options of a training run: learning rates, optimiser, images, machinery and objective. Values, checked when made."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import TrainingError, UnknownName

DECAYS = ("cosine", "linear", "constant")


def require(holds: bool, sentence: str) -> None:
    """Raise TrainingError with the sentence unless it holds."""
    if not holds:
        raise TrainingError(sentence)


def require_ranges(values: object, **intervals: str) -> None:
    """Raise TrainingError for a field that lies outside of its interval; None lies in any.

    Example:
        >>> require_ranges(OptimizerOptions(), momentum="[0, 1)")
    """
    for name, interval in intervals.items():
        value, (low, high) = getattr(values, name), map(float, interval[1:-1].split(","))
        if value is None:
            continue
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        said = f"{'at least' if interval[0] == '[' else 'above'} {low:g}"
        if high < math.inf:
            said += f" and {'at most' if interval[-1] == ']' else 'below'} {high:g}"
        require(above and below, f"`{name}` must be {said}, got {value}")


def require_known(values: object, **known: Iterable[str]) -> None:
    """Raise UnknownName for a field that is none of the known words; None is always one."""
    for name, words in known.items():
        value = getattr(values, name)
        if value is not None and value not in words:
            raise UnknownName(f"`{name}` must be one of {', '.join(words)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class LearningRate:
    """The learning rate of every update: ``warmup`` of linear rise from ``start`` to ``base``, then the decay.

    ``"cosine"`` and ``"linear"`` reach ``final`` before the ``cooldown`` at the end of ``total``, which stays there;
    ``"constant"`` stays at ``base``.

    Raises:
        TrainingError: A value out of its range.
        UnknownName: No such decay.

    Example:
        >>> LearningRate(1.0, warmup=10, total=60).at(5)
        0.5
    """

    base: float
    warmup: int
    total: int
    decay: str = "cosine"
    start: float = 0.0
    final: float = 0.0
    cooldown: int = 0

    def __post_init__(self) -> None:
        require(0 < self.base < math.inf, f"the learning rate must be above 0, got {self.base}")
        require(
            0 <= self.start <= self.base and 0 <= self.final <= self.base,
            f"a learning rate starts and ends between 0 and its highest value, {self.base:g}, got `start_lr` "
            f"{self.start:g} and `final_lr` {self.final:g}; lower these or raise `lr`",
        )
        require(self.total >= 1, f"there must be at least one step, got {self.total}")
        require(
            0 <= self.warmup <= self.total,
            f"the warm-up must last 0 to {self.total} steps (all of them), got `warmup` {self.warmup}",
        )
        left = self.total - self.warmup
        said = f"the cool-down must last 0 to {left} steps (those after the warm-up), got {self.cooldown}"
        require(0 <= self.cooldown <= left, said)
        require_known(self, decay=DECAYS)

    def at(self, update: int) -> float:
        """The learning rate of update 1 to ``total``; that of 0 is the rate before the first."""
        if update < self.warmup:
            return self.start + (self.base - self.start) * (update / max(1, self.warmup))
        progress = min(1.0, (update - self.warmup) / max(1, self.total - self.cooldown - self.warmup))
        shares = {"cosine": 0.5 * (1.0 + math.cos(math.pi * progress)), "linear": 1.0 - progress, "constant": 1.0}
        return self.final + (self.base - self.final) * max(0.0, shares[self.decay])


OPTIMISERS = ("adamw", "sgd")


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """How weights are moved.

    Args:
        steps: Updates.
        epochs: Passes through the training images, an incomplete last batch left out; where it is given, ``steps``
            follows from it.
        batch: Images per update.
        optimiser: Optimiser, ``"adamw"`` or ``"sgd"`` (with momentum).
        lr: Highest learning rate.
        lr_batch: Where it is given, ``lr`` is meant for so many images per update, and grows with ``batch``.
        warmup: Updates until the learning rate is reached; ``None`` is a twentieth of the steps (the official
            500 of 10,000).
        warmup_epochs: Epochs of warm-up, instead of ``warmup``.
        decay: Course of the learning rate after the warm-up: ``"cosine"``, ``"linear"`` or ``"constant"``.
        start_lr: Learning rate where the warm-up begins.
        final_lr: Learning rate where the decay ends.
        cooldown: Last updates, which stay at ``final_lr``.
        cooldown_epochs: Epochs of cool-down, instead of ``cooldown``; they come on top of ``epochs``.
        weight_decay: Weight decay of matrices and filters; biases, norms and tables are not decayed.
        decay_all: Whether these are decayed too, as torch's optimisers do when they are given all parameters.
        momentum: Momentum of SGD.
        nesterov: Whether SGD looks ahead.
        clip: Largest total gradient norm; ``None`` clips nothing.
        layer_decay: Factor on the learning rate from each layer to the one before it; 1 is none.
        lr_scale: Beginning of a parameter's name -> factor on its learning rate; of several the longest counts.
        freeze: Leading layers that are not trained, the embedding with them; ``None`` is the recipe's own choice.

    Raises:
        TrainingError: A value out of its range.
    """

    steps: int = 300
    epochs: float | None = None
    batch: int = 16
    optimiser: str = "adamw"
    lr: float = 1e-4
    lr_batch: int | None = None
    warmup: int | None = None
    warmup_epochs: float | None = None
    decay: str = "cosine"
    start_lr: float = 0.0
    final_lr: float = 0.0
    cooldown: int = 0
    cooldown_epochs: float | None = None
    weight_decay: float = 0.05
    decay_all: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    clip: float | None = 1.0
    layer_decay: float = 1.0
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    freeze: int | None = None

    def __post_init__(self) -> None:
        # The freeze is checked by the model it is meant for; updates that follow from epochs, once these are known.
        LearningRate(self.lr, 0, max(1, self.steps), self.decay, self.start_lr, self.final_lr)
        if self.epochs is None:
            self.learning_rate()
        require_known(self, optimiser=OPTIMISERS)
        require_ranges(
            self, batch="[1, inf)", epochs="(0, inf)", clip="(0, inf)", lr_batch="(0, inf)", warmup_epochs="[0, inf)",
            cooldown_epochs="[0, inf)", weight_decay="[0, inf)", momentum="[0, 1)", layer_decay="(0, 1]",
        )  # fmt: skip
        said = "nesterov is a way of SGD with momentum; leave it out or take `optimiser` sgd"
        require(not self.nesterov or (self.optimiser == "sgd" and self.momentum > 0), said)
        wrong = {name: scale for name, scale in self.lr_scale.items() if not 0 < scale < math.inf}
        require(not wrong, f"learning rates are scaled by factors above 0, got {wrong}")

    def learning_rate(self) -> LearningRate:
        """Of every update."""
        warmup = self.steps // 20 if self.warmup is None else self.warmup
        return LearningRate(self.lr, warmup, self.steps, self.decay, self.start_lr, self.final_lr, self.cooldown)

    def settled(self, *, images: int, freeze: int) -> OptimizerOptions:
        """Nothing left open: what a run records. Epochs have become steps, and the learning rate is that of the batch.

        Raises:
            TrainingError: Warm-up and steps do not go together.
        """
        per_epoch = max(1, images // self.batch)
        steps, warmup, cooldown = self.steps, self.warmup, self.cooldown
        if self.cooldown_epochs is not None:
            cooldown = round(self.cooldown_epochs * per_epoch)
        if self.epochs is not None:
            steps = max(1, round((self.epochs + (self.cooldown_epochs or 0)) * per_epoch))
        if self.warmup_epochs is not None:
            warmup = round(self.warmup_epochs * per_epoch)
        elif warmup is None:
            warmup = steps // 20
        scale = 1.0 if self.lr_batch is None else self.batch / self.lr_batch
        settled = replace(
            self, steps=steps, warmup=warmup, cooldown=cooldown, lr=self.lr * scale, lr_batch=None, freeze=freeze
        )
        settled.learning_rate()
        return settled


CROPS = ("none", "random", "random-resized")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos")
ERASING_FILLS = ("noise", "zero")
POLICIES = ("original", "originalr", "v0", "v0r", "3a", "rand", "augmix")
"""What timm's policy strings begin with; ``original`` is AutoAugment's ImageNet policy as the paper prints it."""

AUGMENTATIONS = ("flip", "vflip", "rotate", "shift")
"""In the order in which they are done: mirrored left and right, top and bottom, quarter turns, and moved by up to an
eighth of each edge, the border repeated by reflection."""


@dataclass(frozen=True, slots=True)
class DataOptions:
    """From an image file to a model's input, in the order of the fields.

    With neither ``resize`` nor ``crop`` an image is resized and cropped as for evaluation.

    Args:
        resize: Height and width, the aspect ratio is lost; or pixels of the shorter edge; ``None`` leaves its size.
        interpolation: Pillow's filter of ``resize`` and of ``random-resized``; ``None`` is the model's.
        crop: Crop: ``"random"`` or ``"random-resized"`` to the model's size; ``"none"`` cuts nothing off.
        scale: Crop of ``random-resized``: least and greatest share of the area.
        ratio: Shape of ``random-resized``: least and greatest width over height.
        augment: Random changes: flip, vflip, rotate (quarter turns) and shift, some or none (``AUGMENTATIONS``).
        rotation: Turn by up to so many degrees either way; corners become black.
        auto_augment: A policy as timm writes it: ``"original"``, ``"rand-m9-mstd0.5-inc1"``.
        color_jitter: Brightness, contrast, saturation, hue, each a greatest change; those not given are 0. One number
            is that of the first three, as in timm.
        blur: Probability of a Gaussian blur, 5 pixels wide, its deviation from 0.1 to 5 (PIM's).
        sharpness: Probability of sharpening by a factor of 1.5 (PIM's).
        erasing: Probability that a rectangle of 2 to 33 % of the area is erased.
        erasing_fill: What is erased becomes ``"noise"``, or ``"zero"``, the mean colour.
        mixup: Alpha of mixup's Beta distribution; 0 mixes nothing. With ``cutmix`` too, each has half of the batches.
        cutmix: Alpha of cutmix's, likewise.
        workers: Processes that decode; 0 decodes between the steps, ``None`` is decided by machine and data.

    Raises:
        TrainingError: A value out of its range.
        UnknownName: A crop, filter, fill or policy nobody knows.
    """

    resize: int | tuple[int, int] | None = None
    interpolation: str | None = None
    crop: str = "none"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    augment: tuple[str, ...] = ("flip",)
    rotation: float = 0.0
    auto_augment: str | None = None
    color_jitter: tuple[float, ...] = ()
    blur: float = 0.0
    sharpness: float = 0.0
    erasing: float = 0.0
    erasing_fill: str = "noise"
    mixup: float = 0.0
    cutmix: float = 0.0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.resize is not None:
            sizes = tuple(self.resize) if isinstance(self.resize, Sequence) else (self.resize,)
            require(
                len(sizes) in (1, 2) and all(type(size) is int for size in sizes),
                f"images are resized to height and width, or by their shorter edge, got {self.resize!r}",
            )
            require(min(sizes) >= 1, f"images are resized to at least 1 pixel, got {self.resize!r}")
            object.__setattr__(self, "resize", sizes[0] if len(sizes) == 1 else sizes)
        for name, given, most in (("scale", self.scale, " and at most 1"), ("ratio", self.ratio, "")):
            holds = len(given) == 2 and 0 < given[0] <= given[1] < math.inf and (not most or given[1] <= 1)
            require(holds, f"`{name}` must be a least and a greatest value above 0{most}, got {tuple(given)}")
            object.__setattr__(self, name, tuple(map(float, given)))
        if unknown := [name for name in self.augment if name not in AUGMENTATIONS]:
            raise UnknownName(f"an augmentation is one of {', '.join(AUGMENTATIONS)} (or none), got {unknown[0]!r}")
        object.__setattr__(self, "augment", tuple(name for name in AUGMENTATIONS if name in self.augment))
        jitter: Any = self.color_jitter
        strengths = (float(jitter),) * 3 if isinstance(jitter, int | float) else tuple(map(float, jitter))
        require(
            len(strengths) <= 4 and all(0 <= value < math.inf for value in strengths),
            "colour jitter is up to four strengths of at least 0 (brightness, contrast, saturation, hue), got "
            f"{jitter}",
        )
        said = f"hue can be turned by at most 0.5, half of the circle, got {strengths[3:]}"
        require(max(strengths[3:], default=0) <= 0.5, said)
        object.__setattr__(self, "color_jitter", strengths if any(strengths) else ())
        require_known(self, crop=CROPS, erasing_fill=ERASING_FILLS, interpolation=INTERPOLATIONS)
        require_ranges(
            self, rotation="[0, 180]", blur="[0, 1]", sharpness="[0, 1]", erasing="[0, 1]", mixup="[0, inf)",
            cutmix="[0, inf)", workers="[0, inf)",
        )  # fmt: skip
        if self.auto_augment is not None:
            beginning, *settings = self.auto_augment.split("-")
            if beginning not in POLICIES:
                raise UnknownName(f"a policy begins with one of {', '.join(POLICIES)}, got {self.auto_augment!r}")
            if unread := [setting for setting in settings if not re.fullmatch(r"[a-z]+\d[\d.]*", setting)]:
                raise UnknownName(f"a policy's settings are letters and a number, such as m9, got {unread[0]!r}")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, and labels with them."""
        return self.mixup > 0 or self.cutmix > 0

    def settled(self, preprocessing: Preprocessing) -> DataOptions:
        """Nothing left open, and checked against the model's input size.

        Raises:
            TrainingError: A crop that cannot be cut from images resized so, or turns of what is not square.
        """
        height, width = preprocessing.image_size
        said = f"only square images can be turned by 90 degrees, got {height}x{width}; leave rotate out of `augment`"
        require("rotate" not in self.augment or height == width, said)
        sizes = self.resize if isinstance(self.resize, tuple) else (self.resize or 0,) * 2
        given = str(self.resize) if isinstance(self.resize, int) else ",".join(map(str, sizes))
        given = "their own size" if self.resize is None else f"`resize` {given}"
        require(
            self.crop != "none" or self.resize in (None, (height, width)),
            f"the model takes {height}x{width} pixels, but {given} without a crop gives others; add `crop` random, or "
            f"resize to {height},{width}",
        )
        require(
            self.crop != "random" or (sizes[0] >= height and sizes[1] >= width),
            f"`crop` {self.crop} cuts {height}x{width} out of larger images, but they have {given}; give a `resize` "
            "that is large enough, or `crop` random-resized",
        )
        return replace(self, interpolation=self.interpolation or preprocessing.interpolation)

    def as_record(self) -> dict[str, Any]:
        """Flat, JSON-ready: what decides the images; by how many processes does not."""
        values = {name: value for name, value in asdict(self).items() if name != "workers"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What surrounds the optimisation; the same for fine-tuning and distillation.

    Args:
        precision: Precision of the products: ``"f32"``, ``"bf16"`` or ``"f16"`` (with loss scaling); ``None`` is
            decided by the machine, and the decision recorded.
        accumulation: Micro-batches per update; every term of the loss is divided by it.
        ema: Decay of the moving average of the weights, which is then what is evaluated and written; ``None`` for
            none. The first updates use ``1 - (1 + update) ** (-2 / 3)`` where that is smaller.
        evaluate_every: Updates between two evaluations on ``val``, of which the best gives the final weights; the last
            update is always one of them. ``None`` evaluates nothing on the way and selects nothing.
        metric: What is selected by: top1, top5, macro_f1, recall[CLASS] or loss (``trainer.SelectionMetric``).

    Raises:
        TrainingError: A value out of its range.
    """

    precision: str | None = None
    accumulation: int = 1
    ema: float | None = None
    evaluate_every: int | None = None
    metric: str = "top1"

    def __post_init__(self) -> None:
        require_ranges(self, ema="(0, 1)", accumulation="[1, inf)", evaluate_every="[1, inf)")

    def check_split(self, batch: int) -> None:
        """Raise TrainingError for a batch that cannot be cut into equal parts."""
        parts = self.accumulation
        said = f"`batch` must be a multiple of {parts}, for {parts} micro-batches of equal size, got {batch}; change it"
        require(not batch % parts, f"{said} or `accumulation`")


LOSSES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "cross_entropy": {"cross_entropy": 1.0},
        "contrastive": {"cross_entropy": 1.0, "contrastive": 1.0},
        "features": {"cross_entropy": 1.0, "features": 1.0},
        "mixvit_pure": {"cross_entropy": 1.0, "mask": 1.0},
        "mixvit_hybrid": {"cross_entropy": 1.0, "mask": 1.0, "mask_class": 1.0, "shaping": 0.5},
        "pim": {"level": 0.5, "selected": 0.0, "dropped": 5.0, "combined": 1.0},
    }
)
"""Kind of loss -> its terms and their weights where a recipe says nothing else.

``contrastive`` is TransFG's, over the features that the head reads. ``features`` is for one schedule: how far tokens
are from those of the network that training began with, which keeps all of its own. The two of Mix-ViT predict which
tokens were substituted; the hybrid model's also the class from the mixed tokens, and it shapes its parts. ``pim`` is
FGVC-PIM's.
"""

_CLASS_WEIGHTS = ("none", "balanced")
_COMPATS = ("fixed", "official")


@dataclass(frozen=True, slots=True)
class Objective:
    """See the module.

    Args:
        loss: Kind of loss: cross_entropy, contrastive, features, mixvit_pure, mixvit_hybrid or pim, as in ``LOSSES``.
        loss_weights: Weights of its terms; a term that is not named keeps its weight. A term of weight 0 is
            not computed.
        smoothing: Share of the target that is spread evenly over all classes (label smoothing).
        class_weights: Weights of the classes: ``"none"``, or ``"balanced"``, images / (classes * images of the
            class) in training.
        margin: Margin of the contrastive loss: the cosine above which two classes are pushed apart.
        mix_share: Share of the tokens that Mix-ViT substitutes.
        compat: Form of Mix-ViT's losses: ``"fixed"``; ``"official"`` repeats the published code, which takes patch
            indices for places in a sequence that begins with the class token, and whose mask head has more outputs than
            there are places.

    Raises:
        UnknownName: No such loss, term, kind of class weights or compat.
        TrainingError: A value out of its range.
    """

    loss: str = "cross_entropy"
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    smoothing: float = 0.0
    class_weights: str = "none"
    margin: float = 0.4
    mix_share: float = 0.2
    compat: str = "fixed"

    def __post_init__(self) -> None:
        require_known(self, loss=LOSSES, class_weights=_CLASS_WEIGHTS, compat=_COMPATS)
        require_ranges(self, smoothing="[0, 1)", margin="[-1, 1]", mix_share="(0, 1]")
        for name, weight in self.loss_weights.items():
            if name not in LOSSES[self.loss]:
                raise UnknownName(f"the loss {self.loss} has the terms {', '.join(LOSSES[self.loss])}, got {name!r}")
            require(0 <= weight < math.inf, f"a term of the loss weighs at least 0, got {name} {weight}")
        require(any(self.weights.values()), f"at least one term of the loss {self.loss} must weigh more than 0")
        require(
            "cross_entropy" in self.weights or not (self.smoothing or self.class_weights != "none"),
            f"label smoothing and class weights belong to a cross-entropy term, which the loss {self.loss} lacks; "
            "leave them out",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Of every term."""
        return {**LOSSES[self.loss], **self.loss_weights}

    def settled(self) -> Objective:
        """With every weight written out: what a run records."""
        return replace(self, loss_weights=self.weights)

"""How weights are moved: optimiser, steps and learning rates. A value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tavt_kit.distill.schedules import LearningRate
from tavt_kit.errors import TrainingError

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
        if self.optimiser not in OPTIMISERS:
            raise TrainingError(f"the optimiser must be one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}")
        if self.batch < 1:
            raise TrainingError(f"a batch takes at least one image, got {self.batch}")
        self._check_epochs()
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise TrainingError(f"the gradient norm must be clipped above 0, got {self.clip}; none clips nothing")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)) or not 0 <= self.momentum < 1:
            raise TrainingError(
                f"weight decay is at least 0 and momentum in [0, 1), got {self.weight_decay} and {self.momentum}"
            )
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise TrainingError("nesterov is a way of SGD with momentum; leave it out or take `optimiser` sgd")
        if not 0 < self.layer_decay <= 1:
            raise TrainingError(f"layer decay is a factor above 0 and at most 1, got {self.layer_decay}")
        if wrong := {name: scale for name, scale in self.lr_scale.items() if not (scale > 0 and math.isfinite(scale))}:
            raise TrainingError(f"learning rates are scaled by factors above 0, got {wrong}")

    def _check_epochs(self) -> None:
        if self.epochs is not None and not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise TrainingError(f"training takes more than 0 epochs, got {self.epochs}")
        if min(self.warmup_epochs or 0, self.cooldown_epochs or 0) < 0:
            raise TrainingError(
                f"warm-up and cool-down take at least 0 epochs, got {self.warmup_epochs} and {self.cooldown_epochs}"
            )
        if self.lr_batch is not None and self.lr_batch < 1:
            raise TrainingError(f"a learning rate is meant for at least one image, got {self.lr_batch}")

    def learning_rate(self) -> LearningRate:
        """Of every update.

        Raises:
            TrainingError: Rate, warm-up, steps or decay cannot be.
        """
        warmup = self.steps // 20 if self.warmup is None else self.warmup
        return LearningRate(self.lr, warmup, self.steps, self.decay, self.start_lr, self.final_lr, self.cooldown)

    def settled(self, *, images: int, freeze: int) -> OptimizerOptions:
        """Nothing left open: what a run records. Epochs have become steps, and the learning rate is that of the batch.

        Args:
            images: In the training split.
            freeze: Leading layers that are not trained.

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
        found = replace(
            self, steps=steps, warmup=warmup, cooldown=cooldown, lr=self.lr * scale, lr_batch=None, freeze=freeze
        )
        found.learning_rate()
        return found

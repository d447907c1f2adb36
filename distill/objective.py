"""What a fine-tuning minimises: the kind of loss, the weight of each of its terms, and their settings. A value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tavt_kit.errors import TrainingError, UnknownName

LOSSES: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "cross_entropy": {"cross_entropy": 1.0},
        "contrastive": {"cross_entropy": 1.0, "contrastive": 1.0},
        "mixvit_pure": {"cross_entropy": 1.0, "mask": 1.0},
        "mixvit_hybrid": {"cross_entropy": 1.0, "mask": 1.0, "mask_class": 1.0, "shaping": 0.5},
        "pim": {"level": 0.5, "selected": 0.0, "dropped": 5.0, "combined": 1.0},
    }
)
"""Kind of loss -> its terms and their weights where a recipe says nothing else.

``contrastive`` is TransFG's, over the features that the head reads. The two of Mix-ViT predict which tokens were
substituted; the hybrid model's also the class from the mixed tokens, and it shapes its parts. ``pim`` is FGVC-PIM's.
"""

_CLASS_WEIGHTS = ("none", "balanced")
_COMPATS = ("fixed", "official")


@dataclass(frozen=True, slots=True)
class Objective:
    """See the module.

    Args:
        loss: Kind of loss: cross_entropy, contrastive, mixvit_pure, mixvit_hybrid or pim, as in ``LOSSES``.
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
        for what, given, known in (
            ("a loss", self.loss, LOSSES),
            ("class weights", self.class_weights, _CLASS_WEIGHTS),
            ("compat", self.compat, _COMPATS),
        ):
            if given not in known:
                raise UnknownName(f"{what} must be one of {', '.join(known)}, got {given!r}")
        self._check_weights()
        if not 0 <= self.smoothing < 1:
            raise TrainingError(f"label smoothing is at least 0 and below 1, got {self.smoothing}")
        if not -1 <= self.margin <= 1:
            raise TrainingError(f"the contrastive margin is a cosine, from -1 to 1, got {self.margin}")
        if not 0 < self.mix_share <= 1:
            raise TrainingError(f"the share of tokens to substitute is above 0 and at most 1, got {self.mix_share}")
        if "cross_entropy" not in self.weights and (self.smoothing or self.class_weights != "none"):
            raise TrainingError(
                f"label smoothing and class weights belong to a cross-entropy term, which the loss {self.loss} lacks; "
                "leave them out"
            )

    def _check_weights(self) -> None:
        terms = LOSSES[self.loss]
        for name, weight in self.loss_weights.items():
            if name not in terms:
                raise UnknownName(f"the loss {self.loss} has the terms {', '.join(terms)}, got {name!r}")
            if not (weight >= 0 and math.isfinite(weight)):
                raise TrainingError(f"a term of the loss weighs at least 0, got {name} {weight}")
        if not any(self.weights.values()):
            raise TrainingError(f"at least one term of the loss {self.loss} must weigh more than 0")

    @property
    def weights(self) -> dict[str, float]:
        """Of every term."""
        return {**LOSSES[self.loss], **self.loss_weights}

    def settled(self) -> Objective:
        """With every weight written out: what a run records."""
        return Objective(
            self.loss, self.weights, self.smoothing, self.class_weights, self.margin, self.mix_share, self.compat
        )

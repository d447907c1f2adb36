"""An external teacher: another trained model, from which the full network learns beside the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tavt_kit.core.model_card import ModelCard
from tavt_kit.data.preprocess import Preprocessing
from tavt_kit.errors import DataError
from tavt_kit.models.wrap import AdaptiveViT

__all__ = ["Teacher"]


@dataclass(frozen=True, slots=True)
class Teacher:
    """A model that is asked and never trained.

    Its pictures are the student's, normalised as it expects and resized to its own size (bicubic, antialiased); what
    the student's crop left out, it does not see either.

    Args:
        model: From ``load_model``; put into evaluation.
        student: The card of the model that learns.

    Raises:
        DataError: The model has no card, or knows other classes, or the same in another order.
    """

    model: AdaptiveViT
    student: ModelCard

    def __post_init__(self) -> None:
        card = self.model.require_card()
        if card.classes != self.student.classes:
            raise DataError(_difference(card.classes, self.student.classes))
        self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) as the student gets them -> (B, K)."""
        ours, theirs = (
            Preprocessing.from_record(card.preprocessing) for card in (self.student, self.model.require_card())
        )
        if (ours.mean, ours.std) != (theirs.mean, theirs.std):
            images = (images * _channels(ours.std, images) + _channels(ours.mean, images)
                      - _channels(theirs.mean, images)) / _channels(theirs.std, images)  # fmt: skip
        if images.shape[-2:] != theirs.image_size:
            images = F.interpolate(images, theirs.image_size, mode="bicubic", antialias=True)
        return self.model.forward_lean(images)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _difference(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    if set(theirs) == set(ours):
        return "the teacher has the student's classes in another order; give a teacher trained on the same data"
    odd = sorted(set(theirs) ^ set(ours))[0]
    return (
        f"the teacher knows {len(theirs)} classes and the student {len(ours)}, and {odd!r} is known to one of them "
        "alone; give a teacher trained on the same data"
    )

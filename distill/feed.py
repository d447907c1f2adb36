"""What the loop hands to a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pictures of one update.

    Args:
        images: (B, 3, H, W) float32.
        labels: (B,) int64.
        soft: (B, C) shares of the classes where pictures were mixed, else ``None``.
        places: (B,) where they stand in their split.
    """

    images: Tensor
    labels: Tensor
    soft: Tensor | None
    places: NDArray[np.int64]

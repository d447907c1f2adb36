"""Thumbnails: what a model sees of an image, as a small JPEG beside a record. PIL and numpy only."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tavt_kit.core.records import atomic_path

_SIDE = 224
"""Longest side of a thumbnail in pixels: sharp on twice the density it is shown at, a few kilobytes each."""


def save_thumbnail(pixels: NDArray[np.uint8], path: Path) -> None:
    """The model's crop as a small JPEG; same aspect ratio, so that a patch grid still fits.

    Args:
        pixels: (3, height, width).
        path: The file.
    """
    height, width = pixels.shape[1:]
    scale = min(1.0, _SIDE / max(height, width))
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if scale < 1.0:
        size = (max(1, math.floor(width * scale + 0.5)), max(1, math.floor(height * scale + 0.5)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    with atomic_path(path) as temporary:
        image.save(temporary, quality=82, optimize=True)

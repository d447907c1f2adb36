from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]
Folders = Callable[[Path, Iterable[str], int], Path]


def _draw(path: Path, value: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def draw() -> Draw:
    """Writes one noisy image; ``value`` seeds it."""
    return _draw


@pytest.fixture
def class_folders() -> Folders:
    """Writes so many images in a folder per class."""

    def make(root: Path, classes: Iterable[str], each: int) -> Path:
        for label, name in enumerate(classes):
            for i in range(each):
                _draw(root / name / f"{i:02}.png", value=1000 * label + i)
        return root

    return make

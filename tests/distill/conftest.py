from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tavt_kit.checkpoints import open_model
from tavt_kit.data import ImageSet, load_images
from tavt_kit.models.wrap import AdaptiveViT

COLOURS = {"blue": (30, 60, 170), "green": (40, 150, 50), "red": (170, 50, 40)}


def draw_coloured(root: Path, each: int = 20) -> Path:
    """Noisy images of three colours: easy, but not solved by an untrained network."""
    draws = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(each):
            noise = draws.integers(-30, 31, (40, 40, 3))
            Image.fromarray((noise + np.array(colour)).clip(0, 255).astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="session")
def coloured_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_coloured(tmp_path_factory.mktemp("coloured") / "colours")


@pytest.fixture
def images(coloured_folder: Path) -> ImageSet:
    return load_images(str(coloured_folder))


@pytest.fixture
def make_model() -> Callable[..., AdaptiveViT]:
    """A small ViT (6 layers, 17 tokens) of the given classes, random weights, with a card."""

    def make(classes: tuple[str, ...] = tuple(COLOURS), seed: int = 0) -> AdaptiveViT:
        return open_model("test_vit", weights="random", classes=classes, image_size=64, seed=seed)

    return make

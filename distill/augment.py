"""Cheap random changes to training pictures that are in memory: whole-array operations on bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tavt_kit.errors import TrainingError, UnknownName

__all__ = ["AUGMENTATIONS", "augment", "check_augmentations"]

Pixels = NDArray[np.uint8]

AUGMENTATIONS = {
    "flip": "mirror left and right",
    "vflip": "mirror top and bottom",
    "rotate": "turn by 0, 90, 180 or 270 degrees",
    "shift": "move by up to an eighth of each edge, the border repeated by reflection",
}
"""What can be asked for, in the order in which it is done."""

_SHIFT = 8


def check_augmentations(names: Sequence[str], image_size: tuple[int, int] | None = None) -> tuple[str, ...]:
    """The names in their order of execution.

    Raises:
        UnknownName: One of them is unknown.
        TrainingError: Quarter turns of pictures that are not square.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise UnknownName(f"an augmentation is one of {', '.join(AUGMENTATIONS)} (or none), got {name!r}")
    if "rotate" in names and image_size is not None and image_size[0] != image_size[1]:
        raise TrainingError(
            f"only square pictures can be turned by 90 degrees, but these are {image_size[0]}x{image_size[1]}; "
            "leave rotate out of --augment"
        )
    return tuple(name for name in AUGMENTATIONS if name in names)


def augment(pixels: Pixels, names: Sequence[str], draws: np.random.Generator) -> Pixels:
    """Change each picture at random.

    Args:
        pixels: (B, 3, H, W); it stays as it was.
        names: From ``check_augmentations``.
        draws: Where the randomness comes from.

    Returns:
        (B, 3, H, W), new.
    """
    pixels = pixels.copy()
    for name in names:
        _STEPS[name](pixels, draws)
    return pixels


def _half(pixels: Pixels, draws: np.random.Generator) -> NDArray[np.bool_]:
    return draws.random(len(pixels)) < 0.5


def _flip(pixels: Pixels, draws: np.random.Generator) -> None:
    chosen = _half(pixels, draws)
    pixels[chosen] = pixels[chosen, :, :, ::-1]


def _vflip(pixels: Pixels, draws: np.random.Generator) -> None:
    chosen = _half(pixels, draws)
    pixels[chosen] = pixels[chosen, :, ::-1]


def _rotate(pixels: Pixels, draws: np.random.Generator) -> None:
    turns = draws.integers(0, 4, len(pixels))
    for quarter in (1, 2, 3):
        chosen = turns == quarter
        pixels[chosen] = np.rot90(pixels[chosen], quarter, axes=(2, 3))


def _shift(pixels: Pixels, draws: np.random.Generator) -> None:
    height, width = pixels.shape[2:]
    most_h, most_w = height // _SHIFT, width // _SHIFT
    downs = draws.integers(-most_h, most_h, len(pixels), endpoint=True)
    rights = draws.integers(-most_w, most_w, len(pixels), endpoint=True)
    rows, columns = np.arange(height), np.arange(width)
    for picture, down, right in zip(pixels, downs, rights, strict=True):
        moved = picture[:, _mirrored(rows + down, height)]
        picture[:] = moved[:, :, _mirrored(columns + right, width)]


def _mirrored(places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices beyond an edge, reflected at it without repeating it."""
    places = np.abs(places)
    return np.where(places >= size, 2 * (size - 1) - places, places)


_STEPS = {"flip": _flip, "vflip": _vflip, "rotate": _rotate, "shift": _shift}

"""Cheap random changes to training images that are decoded: whole-array operations on bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tavt_kit.errors import TrainingError, UnknownName

Pixels = NDArray[np.uint8]
Places = NDArray[np.int64]

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
        TrainingError: Quarter turns of images that are not square.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise UnknownName(f"an augmentation is one of {', '.join(AUGMENTATIONS)} (or none), got {name!r}")
    if "rotate" in names and image_size is not None and image_size[0] != image_size[1]:
        raise TrainingError(
            f"only square images can be turned by 90 degrees, but these are {image_size[0]}x{image_size[1]}; "
            "leave rotate out of `augment`"
        )
    return tuple(name for name in AUGMENTATIONS if name in names)


def augment(
    pixels: Pixels,
    names: Sequence[str],
    draws: np.random.Generator,
    *,
    of: int | None = None,
    places: Places | None = None,
) -> Pixels:
    """Change each image at random.

    Args:
        pixels: (B, 3, H, W); it stays as it was.
        names: From ``check_augmentations``.
        draws: Where the randomness comes from.
        of: Images of the whole batch that these are a part of; every image of it is drawn for, so that each part
            of a batch is changed as the whole would be. ``None`` if these are all.
        places: (B,) of these images in the whole batch.

    Returns:
        (B, 3, H, W), new.
    """
    pixels = pixels.copy()
    count = len(pixels) if of is None else of
    chosen = np.arange(count) if places is None else places
    for name in names:
        drawn, change = _STEPS[name]
        change(pixels, *(values[chosen] for values in drawn(draws, count, pixels.shape[2], pixels.shape[3])))
    return pixels


def _draw_half(draws: np.random.Generator, count: int, height: int, width: int) -> tuple[NDArray[np.bool_], ...]:
    return (draws.random(count) < 0.5,)


def _draw_turns(draws: np.random.Generator, count: int, height: int, width: int) -> tuple[Places, ...]:
    return (draws.integers(0, 4, count),)


def _draw_shifts(draws: np.random.Generator, count: int, height: int, width: int) -> tuple[Places, ...]:
    most_h, most_w = height // _SHIFT, width // _SHIFT
    downs = draws.integers(-most_h, most_h, count, endpoint=True)
    return downs, draws.integers(-most_w, most_w, count, endpoint=True)


def _flip(pixels: Pixels, chosen: NDArray[np.bool_]) -> None:
    pixels[chosen] = pixels[chosen, :, :, ::-1]


def _vflip(pixels: Pixels, chosen: NDArray[np.bool_]) -> None:
    pixels[chosen] = pixels[chosen, :, ::-1]


def _rotate(pixels: Pixels, turns: Places) -> None:
    for quarter in (1, 2, 3):
        chosen = turns == quarter
        pixels[chosen] = np.rot90(pixels[chosen], quarter, axes=(2, 3))


def _shift(pixels: Pixels, downs: Places, rights: Places) -> None:
    height, width = pixels.shape[2:]
    rows, columns = np.arange(height), np.arange(width)
    for image, down, right in zip(pixels, downs, rights, strict=True):
        moved = image[:, _mirrored(rows + down, height)]
        image[:] = moved[:, :, _mirrored(columns + right, width)]


def _mirrored(places: Places, size: int) -> Places:
    """Indices beyond an edge, reflected at it without repeating it."""
    places = np.abs(places)
    return np.where(places >= size, 2 * (size - 1) - places, places)


_STEPS: dict[str, tuple[Callable[..., tuple[NDArray[np.generic], ...]], Callable[..., None]]] = {
    "flip": (_draw_half, _flip),
    "vflip": (_draw_half, _vflip),
    "rotate": (_draw_turns, _rotate),
    "shift": (_draw_shifts, _shift),
}
"""For each name what is drawn for (count, height, width), and what it does to the images."""

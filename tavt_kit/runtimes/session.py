"""Session: a model made ready on a target, whatever runtime runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.errors import DataError, ScheduleError

Images: TypeAlias = npt.NDArray[np.float32]
"""(B, 3, H, W), normalised as the model's preprocessing says."""

Pixels: TypeAlias = npt.NDArray[Any]
"""(B, H, W, 3) uint8 RGB, or (B,) of such images (H, W, 3) in any sizes."""

InputShape: TypeAlias = tuple[int | None, int | None, int | None, int | None]
"""(B, 3, H, W); ``None`` where any size is taken."""


INPUT = "images"
"""The first input of an exported file."""

PREPARED = "prepared"
"""In a file that prepares images itself: (B, 3, H, W) uint8 RGB, resized and cropped, but not normalised yet."""

LENGTHS = "lengths"
"""The second input of a switchable file: int64[layers], tokens kept after each layer."""

Lengths: TypeAlias = Sequence[int]


class Session(Protocol):
    """One loaded, compiled model. It can be called with any batch its input shape allows."""

    @property
    def target(self) -> TargetDevice:
        """Where it runs: threads filled in, and the precision that is really executed."""
        ...

    @property
    def load_ms(self) -> float:
        """Time to read, convert and compile the model (ms)."""
        ...

    @property
    def compile_ms(self) -> float | None:
        """The part of ``load_ms`` that compiled it; ``None`` where the runtime does not tell them apart."""
        ...

    @property
    def input_shape(self) -> InputShape:
        """What the model accepts."""
        ...

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """(B, 3, H, W) -> logits (B, classes)."""
        ...

    def timer(self, images: Images) -> Callable[[], float]:
        """A function that runs one inference on ``images`` and returns its time in milliseconds.

        The images are on the device before the clock starts, and the logits are complete when it stops.
        """
        ...


class FileSession(Session, Protocol):
    """A session of a file.

    One that prepares images itself is called with ``Pixels``, and its input shape has no height and width.
    """

    @property
    def pixels(self) -> str | None:
        """Order of the uint8 images that it prepares itself; ``None`` of others."""
        ...

    @property
    def classes(self) -> int | None:
        """Width of the logits, where the graph says."""
        ...

    def at(self, lengths: Lengths) -> FileSession:
        """The same loaded file at other token counts; nothing is loaded or compiled again.

        Raises:
            ScheduleError: The counts are frozen into the file, or its graph cannot run these.
        """
        ...


def image_shape(sizes: Sequence[int | str | None], name: str, pixels: str | None = None) -> InputShape:
    """What a graph's first input accepts, any size that has a name or none being open; of ``pixels`` any size goes in.

    Raises:
        DataError: It is not of images.
    """
    if len(sizes) != 4:
        raise DataError(
            f"{name} takes an input of {len(sizes)} dimensions, but images have four (batch, 3, height, width); give a "
            "model of images"
        )
    batch, channels, height, width = (size if isinstance(size, int) else None for size in sizes)
    return (batch, channels, height, width) if pixels is None else (batch, 3, None, None)


def check_images(images: Images, shape: InputShape) -> Images:
    """The images as contiguous float32, or DataError where a session cannot take their shape."""
    if images.ndim != 4 or any(want not in (None, got) for want, got in zip(shape, images.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"the model takes images of shape ({wanted}), got {images.shape}")
    return np.ascontiguousarray(images, dtype=np.float32)


def run_images(
    run: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]], images: npt.NDArray[Any], pixels: str | None
) -> npt.NDArray[np.float32]:
    """What a file makes of images; of those that it prepares itself (``pixels``) one size goes in as one batch."""
    if pixels is None:
        return run(images)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    found: dict[int, npt.NDArray[np.float32]] = {}
    for indices in groups.values():
        found.update(zip(indices, run(np.stack([images[index] for index in indices])), strict=True))
    return np.stack([found[index] for index in range(len(images))])


def input_images(images: npt.NDArray[Any], shape: InputShape, pixels: str | None) -> npt.NDArray[Any]:
    """One batch as a file's first input, or DataError where it is none; ``pixels`` as ``FileSession`` has it."""
    return check_images(images, shape) if pixels is None else arrange(images, pixels)


def arrange(images: Pixels, order: str) -> npt.NDArray[np.uint8]:
    """(B, H, W, 3) uint8 RGB in the order that a file takes.

    Raises:
        DataError: They are no such images.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(
            f"the file prepares its images itself and takes them as (batch, height, width, 3) uint8, got "
            f"{images.dtype} {images.shape}"
        )
    layout, _, colours = order.partition(":")
    turned = images[..., ::-1] if colours == "bgr" else images
    return np.ascontiguousarray(turned.transpose(0, 3, 1, 2) if layout == "nchw" else turned)


def lengths_for(name: str, layers: int | None, lengths: Lengths | None) -> list[npt.NDArray[np.int64]]:
    """The second input of a file, in a list: none where the counts are frozen into it.

    Args:
        layers: How many counts its graph takes, or ``None`` where it takes none.

    Raises:
        ScheduleError: Counts for a file that takes none, none for one that does, or such as its graph cannot run: of
            another number, growing, or below two. (That they suit its images is the card's to say.)
    """
    if layers is None:
        if lengths is not None:
            raise ScheduleError(f"the schedule of {name} is frozen into it; leave the counts out, or give another file")
        return []
    if lengths is None:
        raise ScheduleError(f"{name} takes its token counts at run time; give `preset` or `schedule`")
    schedule = TokenSchedule(tuple(lengths))
    if schedule.layers != layers:
        raise ScheduleError(f"{name} has {layers} layers, but the schedule has {schedule.layers}: {schedule}")
    return [np.asarray(schedule.counts, np.int64)]

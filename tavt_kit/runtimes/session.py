"""Session: a model made ready on a target, whatever runtime runs it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeAlias

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

Clock: TypeAlias = Callable[[], float]
"""Runs once; its milliseconds."""

PartClocks: TypeAlias = Callable[[str, Sequence[npt.NDArray[Any]], int | None], Clock]
"""A clock of a part of a model by its name, on fixed inputs; how many tokens it keeps, where it drops any."""


class Session(Protocol):
    """One loaded, compiled model. It can be called with any batch its input shape allows.

    Its ``target`` has the threads and the precision that are really executed; ``load_ms`` is the time to read, convert
    and compile it, ``compile_ms`` the part that compiled, where the runtime tells them apart.
    """

    target: TargetDevice
    load_ms: float
    compile_ms: float | None
    input_shape: InputShape

    def __call__(self, images: Images) -> npt.NDArray[np.float32]:
        """(B, 3, H, W) -> logits (B, classes)."""
        ...

    def timer(self, images: Images) -> Callable[[], float]:
        """A function that runs one inference on ``images`` and returns its time in milliseconds.

        The images are on the device before the clock starts, and the logits are complete when it stops.
        """
        ...


class FileSession(ABC):
    """A session of a graph, whatever its runtime: mostly of a file.

    One that prepares images itself is called with ``Pixels``, and its input shape has no height and width.

    Args:
        sizes: Sizes of its first input; one that has a name or none is open.
        layers: How many token counts its second input takes; ``None`` where it has none.
        lengths: Counts to run a switchable file at.
        pixels: Order of the uint8 images that it prepares itself; ``None`` of others.

    Raises:
        DataError: Its input is not of images.
        ScheduleError: Counts for a file that takes none, none for one that does, or such as its graph cannot run.
    """

    load_ms: float
    classes: int | None
    """Width of the logits, where the graph says."""

    def __init__(
        self, target: TargetDevice, name: str, sizes: Sequence[int | str | None], layers: int | None,
        lengths: Lengths | None, pixels: str | None,
    ) -> None:  # fmt: skip
        if len(sizes) != 4:
            raise DataError(
                f"{name} takes an input of {len(sizes)} dimensions, but images have four (batch, 3, height, width); "
                "give a model of images"
            )
        batch, channels, height, width = (size if isinstance(size, int) else None for size in sizes)
        self.input_shape: InputShape = (batch, channels, height, width) if pixels is None else (batch, 3, None, None)
        self.compile_ms: float | None = None
        self.target, self.pixels, self._name, self._layers = target, pixels, name, layers
        self._lengths = self._checked(lengths)

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if self.pixels is None:
            return self._run(self._inputs(images))
        groups: dict[tuple[int, ...], list[int]] = {}  # images of one size go in as one batch
        for index, image in enumerate(images):
            groups.setdefault(image.shape, []).append(index)
        answers: dict[int, npt.NDArray[np.float32]] = {}
        for indices in groups.values():
            inputs = self._inputs(np.stack([images[index] for index in indices]))
            answers.update(zip(indices, self._run(inputs), strict=True))
        return np.stack([answers[index] for index in range(len(images))])

    def at(self, lengths: Lengths) -> Self:
        """The same loaded file at other token counts; ScheduleError where these are frozen or its graph cannot run."""
        other = copy.copy(self)
        other._lengths = self._checked(lengths)
        return other

    @abstractmethod
    def timer(self, images: Images) -> Callable[[], float]:
        """See ``Session``."""

    @abstractmethod
    def _run(self, inputs: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The graph's inputs -> logits."""

    def _inputs(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        first = check_images(images, self.input_shape) if self.pixels is None else arrange(images, self.pixels)
        return [first, *self._lengths]

    def _checked(self, lengths: Lengths | None) -> list[npt.NDArray[np.int64]]:
        """The second input, in a list: none where the counts are frozen into the file."""
        name = self._name
        if self._layers is None:
            if lengths is not None:
                raise ScheduleError(
                    f"the schedule of {name} is frozen into it; leave the counts out, or give another file"
                )
            return []
        if lengths is None:
            raise ScheduleError(f"{name} takes its token counts at run time; give `schedule`")
        schedule = TokenSchedule(tuple(lengths))
        if schedule.layers != self._layers:
            raise ScheduleError(f"{name} has {self._layers} layers, but the schedule has {schedule.layers}: {schedule}")
        return [np.asarray(schedule.counts, np.int64)]


def check_images(images: Images, shape: InputShape) -> Images:
    """The images as contiguous float32, or DataError where a session cannot take their shape."""
    if images.ndim != 4 or any(want not in (None, got) for want, got in zip(shape, images.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"the model takes images of shape ({wanted}), got {images.shape}")
    return np.ascontiguousarray(images, dtype=np.float32)


def arrange(images: Pixels, order: str) -> npt.NDArray[np.uint8]:
    """(B, H, W, 3) uint8 RGB in the order that a file takes; DataError where they are no such images."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(
            f"the file prepares its images itself and takes them as (batch, height, width, 3) uint8, got "
            f"{images.dtype} {images.shape}"
        )
    layout, _, colours = order.partition(":")
    turned = images[..., ::-1] if colours == "bgr" else images
    return np.ascontiguousarray(turned.transpose(0, 3, 1, 2) if layout == "nchw" else turned)

"""Session: a model made ready on a target, whatever runtime runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tavt_kit.device import TargetDevice
from tavt_kit.errors import DataError

__all__ = ["Images", "InputShape", "Session", "check_images"]

Images: TypeAlias = npt.NDArray[np.float32]
"""(B, 3, H, W), normalised as the model's preprocessing says."""

InputShape: TypeAlias = tuple[int | None, int | None, int | None, int | None]
"""(B, 3, H, W); ``None`` where any size is taken."""


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


def check_images(images: Images, shape: InputShape) -> Images:
    """The images as contiguous float32, or DataError where a session cannot take their shape."""
    if images.ndim != 4 or any(want not in (None, got) for want, got in zip(shape, images.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise DataError(f"the model takes images of shape ({wanted}), got {images.shape}")
    return np.ascontiguousarray(images, dtype=np.float32)

"""EndToEnd: a session timed from image files to logits, with its parts told apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.errors import MeasurementError
from tavt_kit.runtimes.session import Images, InputShape, Session

PARTS = ("decode", "resize", "normalise", "inference")
"""What the time is made of, in this order."""


class EndToEnd:
    """Reads a batch of images, prepares them one after another in Python, and runs the session on them.

    Args:
        session: The model alone.
        files: Files, taken in turn; all are read once here, so that a damaged one stops nothing halfway.
        preprocessing: The model's.

    Raises:
        DataError: An image cannot be read.
        MeasurementError: There is no image.
    """

    def __init__(self, session: Session, files: Sequence[Path], preprocessing: Preprocessing) -> None:
        if not files:
            raise MeasurementError("an end-to-end time needs images; give `data`, or a folder by `image_folder`")
        for file in files:
            open_image(file)
        self.session, self.files = session, tuple(files)
        self.target, self.load_ms, self.compile_ms = session.target, session.load_ms, session.compile_ms
        self.input_shape: InputShape = session.input_shape
        self.parts: list[tuple[float, ...]] = []  # ms, in the order of PARTS; a row for each run
        self._preprocessing, self._next = preprocessing, cycle(self.files)

    def __call__(self, images: Images) -> Images:
        return self.session(images)

    def timer(self, images: Images) -> Callable[[], float]:
        """A run takes the next images instead of ``images``."""
        return self._run

    def _run(self) -> float:
        ticks = [time.perf_counter()]
        opened = [open_image(next(self._next)) for _ in range(self.target.batch)]
        ticks.append(time.perf_counter())
        pixels = [resize_crop(image, self._preprocessing) for image in opened]
        ticks.append(time.perf_counter())
        ready = np.stack([normalise(each, self._preprocessing) for each in pixels])
        ticks.append(time.perf_counter())
        self.session(ready)
        ticks.append(time.perf_counter())
        self.parts.append(tuple(1e3 * (end - begin) for begin, end in zip(ticks, ticks[1:], strict=False)))
        return 1e3 * (ticks[-1] - ticks[0])

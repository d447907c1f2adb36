"""EndToEnd: a session timed from image files to logits, with its parts told apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np

from tavt_kit.core.measurement import Measurement
from tavt_kit.data.preprocess import Preprocessing, normalise, open_image, resize_crop
from tavt_kit.errors import MeasurementError
from tavt_kit.runtimes.session import Images, InputShape, Session

PARTS = ("decode", "resize", "normalise", "inference")
"""What the time is made of, in this order."""


class EndToEnd:
    """Reads a batch of images, prepares them one after another in Python, and runs the session on them.

    Args:
        files: Files, taken in turn; all are read once here, so that a damaged one stops nothing halfway.

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


class Notes:
    """Looks on as ``Turns``: latencies of single requests where many are in flight, parts of end-to-end times."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = sessions
        self._latencies: dict[str, list[float]] = {name: [] for name in sessions}
        self._rounds: dict[str, list[int]] = {name: [] for name in sessions}
        self._parts: dict[str, list[tuple[float, ...]]] = {name: [] for name in sessions}

    def begin(self, name: str) -> None:
        """See ``Turns``."""
        for noted in self._noted(name):
            noted.clear()

    def end(self, name: str, times: Sequence[float]) -> None:
        """See ``Turns``."""
        latencies, parts = self._noted(name)
        if latencies:
            self._latencies[name] += latencies
            self._rounds[name].append(len(latencies))
        self._parts[name] += parts

    def requests(self, name: str, whole: Measurement) -> Measurement | None:
        """Latencies of single requests (ms), or ``None`` where one inference was run at a time."""
        found = self._latencies[name]
        return Measurement(tuple(found), whole.steady, tuple(self._rounds[name]), whole.load_ms) if found else None

    def in_flight(self, name: str) -> tuple[int, int]:
        """Requests at once, and OpenVINO's streams that compute them; (1, 1) where one inference is run at a time."""
        burst = getattr(self._sessions[name], "burst", None)
        return (1, 1) if burst is None else (burst.in_flight, burst.streams)

    def parts(self, name: str) -> dict[str, float]:
        """Medians of the parts of an end-to-end time (ms); empty for the model alone."""
        columns = zip(*self._parts[name], strict=True)
        return {part: median(column) for part, column in zip(PARTS, columns, strict=False)}

    def _noted(self, name: str) -> tuple[list[float], list[tuple[float, ...]]]:
        session = self._sessions[name]
        burst = getattr(session, "burst", None)  # of OpenVINO's sessions, whose runtime may not be installed
        return ([] if burst is None else burst.latencies), (session.parts if isinstance(session, EndToEnd) else [])

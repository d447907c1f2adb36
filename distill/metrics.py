"""What a run writes down at every step: ``metrics.jsonl``, and TensorBoard's event files beside it.

A resumed run cuts off what it will do again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

from tavt_kit.core.records import atomic_text, make_folder, read_lines
from tavt_kit.errors import OutputError

METRICS_FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Every whole line; the last one may be cut where a process was killed."""
    return read_lines(Path(folder) / METRICS_FILE)


class MetricsLog:
    """Appends to the file; use as a context manager.

    Args:
        folder: The run's.
        done: Steps that stay; later lines, of steps that were done but not saved, are cut off.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._path = Path(folder) / METRICS_FILE
        self._done = done
        self._file: IO[str] | None = None

    def __enter__(self) -> MetricsLog:
        kept = [line for line in read_metrics(self._path.parent) if line["step"] <= self._done]
        atomic_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        try:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from None
        return self

    def write(self, values: Mapping[str, float]) -> None:
        """One step's values, its number as ``step`` among them."""
        assert self._file is not None  # entered
        self._file.write(json.dumps(dict(values)) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


EVENTS_FOLDER = "tensorboard"


class Journal:
    """Use as a context manager.

    Args:
        folder: The run's.
        done: Steps that stay; what was written of later ones is cut off (TensorBoard hides it).

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self._folder, self._done = Path(folder), done
        self._stack = ExitStack()

    def __enter__(self) -> Journal:
        from torch.utils.tensorboard import SummaryWriter

        with ExitStack() as stack:
            self._metrics = stack.enter_context(MetricsLog(self._folder, self._done))
            place = make_folder(self._folder / EVENTS_FOLDER)
            self._events = stack.enter_context(SummaryWriter(str(place), purge_step=self._done + 1))
            self._stack = stack.pop_all()
        return self

    def write(self, values: Mapping[str, float]) -> None:
        """One step's values, its number as ``step`` among them."""
        self._metrics.write(values)
        for name, value in values.items():
            if name != "step":
                self._events.add_scalar(name, value, int(values["step"]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

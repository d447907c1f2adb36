"""What a run writes down at every step: ``metrics.jsonl``, and TensorBoard's event files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tavt_kit.core.records import make_folder
from tavt_kit.distill.metrics import MetricsLog

__all__ = ["EVENTS_FOLDER", "Journal"]

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

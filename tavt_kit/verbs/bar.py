"""A progress bar on stderr for whatever tells its stages (``tavt_kit.distill.progress.Progress``)."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Bar"]


class Bar:
    """Use as a context manager; one line per stage, with the last values it was told."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._progress.stop()

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """Begin a new line; the first one begins the display, so that a refusal before it leaves no empty line."""
        self._progress.start()
        self._task = self._progress.add_task(what, total=total, completed=done, values="")

    def advance(self, units: int = 1, **values: float) -> None:
        """Move the newest line on."""
        if self._task is None:
            return
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
        if shown:
            self._progress.update(self._task, advance=units, values=shown)
        else:
            self._progress.update(self._task, advance=units)

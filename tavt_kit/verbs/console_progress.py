"""Progress on stderr: bars and spinners where it is a terminal, and lines that stay wherever it goes."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Display

from tavt_kit.verbs.console import console_of

_STAGES: tuple[ProgressColumn, ...] = (
    TextColumn("{task.description:<14}"),
    BarColumn(bar_width=30),
    MofNCompleteColumn(),
    TextColumn("{task.fields[values]}"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)
_UPDATES: tuple[ProgressColumn, ...] = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    TimeElapsedColumn(),
)


class ConsoleProgress:
    """A ``Progress`` for one verb; use it as a context manager, so that the display ends with the work."""

    def __init__(self) -> None:
        self._console = console_of(stderr=True)
        self._stages: Display | None = None
        self._stage: TaskID | None = None
        self._updates: Display | None = None
        self._update: TaskID | None = None

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stages()
        self._end_updates()

    def say(self, sentence: str) -> None:
        """One line that stays."""
        self._end_updates()
        print(sentence, file=sys.stderr, flush=True)

    def show(self, value: object) -> None:
        """A value, as its ``str``; a verb that has a better image of it overrides this."""
        self.say(str(value))

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """One line for each stage; they stay when the work ends."""
        self._end_updates()
        if self._stages is None:
            self._stages = Display(*_STAGES, console=self._console)
            self._stages.start()
        self._stage = self._stages.add_task(what, total=total, completed=done, values="")

    def advance(self, units: int = 1, **values: float) -> None:
        """Move the newest stage on."""
        if self._stages is None or self._stage is None:
            return
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
        if shown:
            self._stages.update(self._stage, advance=units, values=shown)
        else:
            self._stages.update(self._stage, advance=units)

    def update(self, doing: str, share: float | None = None) -> None:
        """One line that is wiped when the next thing begins; nothing where stderr is no terminal."""
        if not self._console.is_terminal:
            return
        self._end_stages()
        if self._updates is None:
            self._updates = Display(*_UPDATES, console=self._console, transient=True)
            self._update = self._updates.add_task("", total=None)
            self._updates.start()
        assert self._update is not None  # made with the display
        total = None if share is None else 1.0
        self._updates.update(self._update, description=escape(doing), total=total, completed=share or 0.0)

    def _end_stages(self) -> None:
        if self._stages is not None:
            self._stages.stop()
        self._stages = self._stage = None

    def _end_updates(self) -> None:
        if self._updates is not None:
            self._updates.stop()
        self._updates = self._update = None

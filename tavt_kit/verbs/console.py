"""Where tables are printed, and progress on stderr: bars on a terminal, lines that stay wherever it goes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NoReturn, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Display
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tavt_kit.verbs import streams
from tavt_kit.verbs.streams import shown


class _Console(Console):
    """Names in tables steer no terminal, and a reader who left is not a verdict."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)  # before the columns are measured

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console_of(width: int | None = None, *, stderr: bool = False) -> Console:
    """Standard output; a pipe or a file, which has no width, gets so many columns, so that nothing is cut at 80."""
    console = _Console(stderr=stderr)
    return console if console.is_terminal or width is None else _Console(width=width, stderr=stderr)


def table_of(titles: Sequence[str], rows: Iterable[Sequence[str | None]], *, left: Collection[str] = ()) -> Table:
    """A table of plain texts: the first column and those of ``left`` may be folded, numbers keep to one line."""
    rows, table = list(rows), Table(show_edge=False)
    least = min(16, max((len(row[0] or "") for row in rows), default=0))
    for index, name in enumerate(titles):
        folds = not index or name in left
        justify: Literal["left", "right"] = "left" if folds else "right"
        table.add_column(
            escape(name), justify=justify, no_wrap=not folds, overflow="fold", min_width=None if index else least
        )
    for row in rows:
        table.add_row(*(escape(cell or "") for cell in row))
    return table


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str | None]], *, left: Collection[str] = (), width: int | None = None
) -> None:
    """A table of plain texts on stdout; ``left`` as for ``table_of``, ``width`` as for ``console_of``."""
    console_of(width).print(table_of(titles, rows, left=left))


EVERY = 10.0
"""Seconds between two lines where nobody watches a terminal."""


class _Heartbeat(threading.Thread):
    """Says every ``EVERY`` seconds what is being done, however long that one step takes."""

    def __init__(self) -> None:
        super().__init__(name="progress", daemon=True)
        self._begin, self._ended = time.monotonic(), threading.Event()
        self.doing, self.share = "", ""

    def run(self) -> None:
        while not self._ended.wait(EVERY):
            if self.doing:
                since = clock_text(time.monotonic() - self._begin)
                print(f"{since} {self.doing}{self.share}", file=sys.stderr, flush=True)

    def end(self) -> None:
        self._ended.set()
        self.join()


def clock_text(seconds: float) -> str:
    """``1:05``, or ``2:01:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class ConsoleProgress:
    """A ``Progress`` for one verb; use it as a context manager, so that the display ends with the work."""

    def __init__(self, verb: str = "", *, as_json: bool = False) -> None:
        self._verb, self._as_json = verb, as_json
        self._console = console_of(stderr=True)
        self._stages: tuple[Display, TaskID] | None = None
        self._updates: tuple[Display, TaskID] | None = None
        self._heartbeat = _Heartbeat()
        self._what, self._units = "", (0, 0)

    def __enter__(self) -> Self:
        if not self._console.is_terminal:
            self._heartbeat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._heartbeat.is_alive():
            self._heartbeat.end()
        self._end_displays()

    def say(self, sentence: str) -> None:
        """One line that stays."""
        self._end_displays(stages=False)
        sentence = streams.spelled(sentence)
        self._now(sentence.partition("\n")[0].rstrip("."))
        print(sentence, file=sys.stderr, flush=True)

    def _now(self, doing: str, share: str = "") -> None:
        """What a line says where nobody watches a terminal."""
        self._heartbeat.doing, self._heartbeat.share = doing, share

    def show(self, value: object) -> None:
        """A value, as its ``str``; a verb that has a better image of it overrides this."""
        self.say(str(value))

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """One line for each stage, which stays when the work ends; where stderr is no terminal, once it is done."""
        self._end_displays(stages=False)
        self._what, self._units = what, (done, total)
        self._now(what, f", {done} of {total}")
        if not self._console.is_terminal:
            return
        if self._stages is None:
            bar = (TextColumn("{task.description:<14}"), BarColumn(bar_width=30), MofNCompleteColumn(),
                   TextColumn("{task.fields[values]}"), TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
            display = Display(*bar, console=self._console)
            display.start()
        else:
            display, _ = self._stages
        self._stages = display, display.add_task(what, total=total, completed=done, values="")

    def advance(self, units: int = 1, **values: float) -> None:
        """Move the newest stage on."""
        done, total = self._units[0] + units, self._units[1]
        self._units, shown = (done, total), [f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items()]
        self._now(self._what, ", ".join([f", {done} of {total}", *shown]))
        if done == total and not self._console.is_terminal:
            print(", ".join([f"{self._what}: {total}", *shown]), file=sys.stderr, flush=True)
        if self._stages is not None:
            display, stage = self._stages
            display.update(stage, advance=units)
            if shown:
                display.update(stage, values="  ".join(shown))

    def update(self, doing: str, share: float | None = None) -> None:
        """One line that is wiped when the next thing begins; where stderr is no terminal, one in ten seconds."""
        self._now(doing, "" if share is None else f", {share:.0%}")
        if not self._console.is_terminal:
            return
        self._end_displays(updates=False)
        if self._updates is None:
            line = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            display = Display(*line, console=self._console, transient=True)
            self._updates = display, display.add_task("", total=None)
            display.start()
        display, task = self._updates
        display.update(task, description=escape(doing), total=None if share is None else 1.0, completed=share or 0.0)

    def _end_displays(self, *, stages: bool = True, updates: bool = True) -> None:
        if stages and self._stages is not None:
            self._stages[0].stop()
            self._stages = None
        if updates and self._updates is not None:
            self._updates[0].stop()
            self._updates = None


class ImageLines(ConsoleProgress):
    """A line for each image that was looked at: on stdout what came of it, on stderr why nothing did."""

    def show(self, value: Any) -> None:
        """Of a value with a ``path`` and an ``error``."""
        if value.error is not None:
            self.say(f"fgvc-kit {self._verb}: {value.error}")
        elif not self._as_json:
            print(value, flush=True)

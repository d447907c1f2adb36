"""A search while it runs, on stderr: the feasibility table, then one line that lives, or log lines for a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tavt_kit.core.budget import Limit
from tavt_kit.core.candidate import Candidate
from tavt_kit.search import Progress
from tavt_kit.search.feasibility import Reach

__all__ = ["live", "print_reach", "say_stage"]

_EVERY = 10.0
"""Seconds between two lines where nobody watches a terminal."""


def print_reach(rows: Sequence[Reach], floors: Sequence[Limit] = ()) -> None:
    """The feasibility table; nothing where nothing is limited.

    Args:
        rows: The ceilings.
        floors: What only pictures can tell.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows and not floors:
        return
    table = Table("budget", "least", "dense", "", show_edge=False)
    for row in rows:
        show = row.limit.show
        table.add_row(escape(str(row.limit)), show(row.least), show(row.dense), escape(row.note))
    for floor in floors:
        table.add_row(escape(str(floor)), "", "", "known once pictures are looked at, those of dense first")
    Console(stderr=True).print(table)


def say_stage(what: str) -> None:
    """One line that says what begins now."""
    print(what, file=sys.stderr, flush=True)


@contextmanager
def live() -> Iterator[Callable[[Progress], None]]:
    """Show evaluations, front, hypervolume, the best within the budget, and the time left."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines()
        yield lines
        lines.last()
        return
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("", total=None)
        yield lambda now: bars.update(task, completed=now.evaluations, total=now.limit, description=escape(words(now)))


class _Lines:
    """One line every few seconds, the last always."""

    def __init__(self) -> None:
        self.said = -_EVERY
        self.untold: Progress | None = None

    def __call__(self, now: Progress) -> None:
        self.untold = now
        if time.monotonic() - self.said >= _EVERY and not now.replayed:
            self.last()

    def last(self) -> None:
        """Say the newest, unless it was said."""
        now, self.untold = self.untold, None
        if now is not None:
            self.said = time.monotonic()
            print(f"{now.evaluations}/{now.limit or '?'} evaluations, {words(now)}", file=sys.stderr, flush=True)


def words(now: Progress) -> str:
    """What a line says besides the count."""
    best = "none within the budget yet" if now.best is None else f"best {_best(now.best)}"
    left = "" if now.seconds_left is None else f", {_clock(now.seconds_left)} left"
    return f"front {now.front}, hypervolume {now.hypervolume:.4f}, {best}{left}"


def _best(candidate: Candidate) -> str:
    predicted = candidate.latency_predicted_ms
    cost = f"{candidate.macs / 1e9:.3g} GMACs" if predicted is None else f"{predicted:.3g} ms"
    memory = candidate.memory_predicted
    return f"{100 * candidate.metric:.1f} % at {cost}" + (f", {memory / 1e6:.1f} MB" if memory is not None else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"

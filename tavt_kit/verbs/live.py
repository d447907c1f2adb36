"""A search or a fit while it runs, on stderr: tables, then one line that lives, or log lines for a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Display
from rich.table import Table

from tavt_kit.search import Progress as SearchState
from tavt_kit.verbs.console import ConsoleProgress, clock_text
from tavt_kit.workflows.search import FeasibilityTable


class SearchProgress(ConsoleProgress):
    """Shows evaluations, front, hypervolume, the best within the budget, and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._search: Display | None = None
        self._untold: SearchState | None = None
        self._is_first = True

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._end_search(interrupted=kind is not None)
        super().__exit__(kind, *error)

    def say(self, sentence: str) -> None:
        """One line that stays, below the search's own."""
        self._end_search()
        super().say(sentence)

    def update(self, doing: str, share: float | None = None) -> None:
        """One line that is wiped, below the search's own."""
        self._end_search()
        super().update(doing, share)

    def show(self, value: object) -> None:
        """The feasibility of a budget as a table, the state of a search as a line."""
        if isinstance(value, SearchState):
            self._show_state(value)
        elif isinstance(value, FeasibilityTable):
            self._end_updates()
            table = Table("budget", "least", "dense", "", show_edge=False)
            for row in value.rows:
                show = row.limit.show
                table.add_row(escape(str(row.limit)), show(row.least), show(row.dense), escape(row.note))
            for floor in value.floors:
                table.add_row(escape(str(floor)), "", "", "known once images are looked at, those of dense first")
            self._console.print(table)
        else:
            super().show(value)

    def _show_state(self, now: SearchState) -> None:
        if not self._console.is_terminal:
            self._untold = now
            self._now(_line(now))
            if self._is_first and not now.replayed:
                self._say_state()
            return
        self._end_updates()
        if self._search is None:
            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._search = Display(*columns, console=self._console)
            self._search.add_task("", total=None)
            self._search.start()
        (task,) = self._search.task_ids
        self._search.update(task, completed=now.evaluations, total=now.limit, description=escape(_words(now)))

    def _say_state(self) -> None:
        """The newest, unless it was said."""
        now, self._untold = self._untold, None
        if now is not None:
            self._is_first = False
            print(_line(now), file=sys.stderr, flush=True)

    def _end_search(self, interrupted: bool = False) -> None:
        """The search has ended where anything else is told."""
        if self._search is not None:
            self._search.stop()
        self._search = None
        if not interrupted:
            self._say_state()
        self._is_first = True


def _line(now: SearchState) -> str:
    return f"{now.evaluations}/{now.limit or '?'} evaluations, {_words(now)}"


def _words(now: SearchState) -> str:
    """What a line says besides the count."""
    best = "none within the budget yet"
    if now.best is not None:
        predicted = now.best.latency_predicted_ms
        cost = f"{now.best.macs / 1e9:.3g} GMACs" if predicted is None else f"{predicted:.3g} ms"
        best = f"best {100 * now.best.metric:.1f} % at {cost}"
    left = "" if now.seconds_left is None else f", {clock_text(now.seconds_left)} left"
    return f"front {now.front}, hypervolume {now.hypervolume:.4f}, {best}{left}"


class FitProgress(SearchProgress):
    """Shows each stage with its time, on stderr; the answer alone goes to stdout."""

    def __init__(self) -> None:
        super().__init__()
        self._reasons: tuple[str, ...] = ()
        self._title = "looking at the data"

    def say(self, sentence: str) -> None:
        """One line that stays; meanwhile the stage goes on."""
        super().say(sentence)
        self._now(self._title)

    def stage(self, what: str, total: int, done: int = 0) -> None:
        """A bar on a terminal; elsewhere the lines alone, which would else be followed by all bars at the end."""
        if self._heartbeat is None:
            super().stage(what, total, done)
        else:
            self._what, self._units = what, (done, total)
            self._now(what, f", {done} of {total}")

    def advance(self, units: int = 1, **values: float) -> None:
        """Move the newest stage on."""
        if self._heartbeat is None:
            super().advance(units, **values)
        else:
            self.stage(self._what, self._units[1], self._units[0] + units)

    def show(self, value: object) -> None:
        """What belongs to the fit in sentences; of the stages' own results only what a search shows."""
        kind = type(value).__name__  # by name: a search does not need the fit's modules
        if kind in _SENTENCES:
            sentences = _SENTENCES[kind](value)
            self._title = str(getattr(value, "title", self._title))
            if kind == "FitPlan":  # shown again where it grows
                sentences, self._reasons = tuple(one for one in sentences if one not in self._reasons), sentences
            for sentence in sentences:
                self.say(sentence)
        else:
            super().show(value)


_SENTENCES: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "DataFacts": lambda facts: facts.sentences,
    "FitPlan": lambda plan: plan.reasons,
    "FitStage": lambda stage: (f"== {stage.title}" if stage.seconds is None else f"   {stage.seconds:.0f} s",),
    "FitResult": lambda result: (f"so far: {result.table.advice}",),
}

"""A search or a fit while it runs, on stderr: tables, then one line that lives, or log lines for a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from tavt_kit.search import Progress as SearchState
from tavt_kit.verbs.console import ConsoleProgress, clock_text, table_of
from tavt_kit.workflows.search import FeasibilityTable


class SearchProgress(ConsoleProgress):
    """Shows evaluations, front, hypervolume, the best within the budget, and the time left."""

    def __init__(self, verb: str = "search", *, as_json: bool = False) -> None:
        super().__init__(verb, as_json=as_json)
        self._searches, self._is_first = False, True
        self._unsaid: SearchState | None = None

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
            self._end_displays(stages=False)
            rows = [
                (str(row.limit), row.limit.show(row.least), row.limit.show(row.dense), row.note) for row in value.rows
            ]
            floors = [(str(floor), "", "", "known once images are looked at") for floor in value.floors]
            self._console.print(table_of(("budget", "least", "dense", ""), [*rows, *floors], left=("",)))
        else:
            super().show(value)

    def _show_state(self, now: SearchState) -> None:
        if not self._console.is_terminal:
            self._unsaid = now
            self._now(_line(now))
            if self._is_first and not now.replayed:
                self._say_state()
            return
        if not self._searches:
            self.stage("searching", now.limit or now.evaluations)
            self._searches = True
        assert self._stages is not None  # begun above
        display, stage = self._stages
        display.update(stage, completed=now.evaluations, total=now.limit, values=_words(now))

    def _say_state(self) -> None:
        """The newest, unless it was said."""
        now, self._unsaid = self._unsaid, None
        if now is not None:
            self._is_first = False
            print(_line(now), file=sys.stderr, flush=True)

    def _end_search(self, interrupted: bool = False) -> None:
        """The search has ended where anything else is told."""
        if self._searches:
            self._end_displays()
        if not interrupted:
            self._say_state()
        self._searches, self._is_first = False, True


def _line(now: SearchState) -> str:
    return f"{now.evaluations}/{now.limit or '?'} evaluations, {_words(now)}"


def _words(now: SearchState) -> str:
    """What a line says besides the count."""
    best = "none within the budget yet"
    if now.best is not None:
        predicted = now.best.latency_predicted_ms
        cost = f"{now.best.macs / 1e9:.3g} GMACs" if predicted is None else f"{predicted:.3g} ms"
        accuracy = now.best.accuracy
        metric = "" if accuracy is None or accuracy.metric == "top1" else f" {accuracy.metric}"
        best = f"best {100 * now.best.metric:.1f} %{metric} at {cost}"
    left = "" if now.seconds_left is None else f", {clock_text(now.seconds_left)} left"
    return f"front {now.front}, hypervolume {now.hypervolume:.4f}, {best}{left}"


class FitProgress(SearchProgress):
    """Shows each stage with its time, on stderr; the answer alone goes to stdout."""

    def __init__(self, verb: str = "fit", *, as_json: bool = False) -> None:
        super().__init__(verb, as_json=as_json)
        self._reasons: tuple[str, ...] = ()
        self._title = "looking at the data"

    def say(self, sentence: str) -> None:
        """One line that stays; meanwhile the stage goes on."""
        super().say(sentence)
        self._now(self._title)

    def show(self, value: object) -> None:
        """What belongs to the fit in sentences; of the stages' own results only what a search shows."""
        kind = type(value).__name__  # by name: a search does not need the fit's modules
        if kind in _SENTENCES:
            sentences = _SENTENCES[kind](value)
            self._title = str(getattr(value, "title", self._title))
            if kind == "FitPlan":  # shown again where it grows
                sentences, self._reasons = tuple(said for said in sentences if said not in self._reasons), sentences
            for sentence in sentences:
                self.say(sentence)
        elif isinstance(value, SearchState | FeasibilityTable):
            super().show(value)


_SENTENCES: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "DataFacts": lambda facts: facts.sentences,
    "FitPlan": lambda plan: plan.reasons,
    "FitStage": lambda stage: (f"== {stage.title}" if stage.seconds is None else f"   {stage.seconds:.0f} s",),
    **dict.fromkeys(("TrainResult", "DistillResult"), lambda done: (f"   top-1 {done.top1}",)),
    "FitResult": lambda result: (f"so far: {result.table.advice}",),
}

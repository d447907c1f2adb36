"""A fit while it runs, and its closing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tavt_kit.data.look import DataFacts
from tavt_kit.verbs.search_live import SearchProgress
from tavt_kit.workflows.fit import FitPlan, FitResult, FitStage


class FitProgress(SearchProgress):
    """Shows each stage with its time, on stderr; the answer alone goes to stdout."""

    def show(self, value: object) -> None:
        """What belongs to the fit in sentences; of the stages' own results only what a search shows."""
        if type(value) in _SENTENCES:
            for sentence in _SENTENCES[type(value)](value):
                self.say(sentence)
        else:
            super().show(value)


def _of_plan(plan: FitPlan) -> tuple[str, ...]:
    return plan.reasons


def _of_stage(stage: FitStage) -> tuple[str, ...]:
    return (f"== {stage.title}" if stage.seconds is None else f"   {stage.seconds:.0f} s",)


def _of_result(result: FitResult) -> tuple[str, ...]:
    return (f"so far: {result.table.advice}",)


_SENTENCES: Mapping[type, Callable[[Any], tuple[str, ...]]] = {
    DataFacts: lambda facts: facts.sentences,
    FitPlan: _of_plan,
    FitStage: _of_stage,
    FitResult: _of_result,
}


def print_fit(done: FitResult) -> None:
    """Five rows, one sentence of advice, and where things lie."""
    record = done.record
    table = Table(show_edge=False)
    for name in ("", "model", "top-1 on val [95 %]", "test", "GMACs", "p90 ms", "in the budget"):
        table.add_column(name, justify="left" if name in ("", "model") else "right")
    for role, index in record["shown"].items():
        row = record["rows"][index]
        low, high = (100 * end for end in row["val"]["ci95"])
        test = "" if row["test"] is None else f"{100 * row['test']['top1']:.1f} %"
        table.add_row(
            role, row["name"], f"{100 * row['val']['top1']:.1f} % \\[{low:.1f}, {high:.1f}]", test,
            f"{row['macs'] / 1e9:.2f}", f"{row['latency_ms']['p90']:.2f}", row["verdict"] if row["fits"] else "no",
        )  # fmt: skip
    Console().print(table)
    print(record["advice"])
    if done.recommended is not None:
        print(f"ship:   {done.recommended.parent}   (python predict.py {done.recommended.name} photo.jpg)")
    print(f"record: {done.folder / 'fit.json'}")

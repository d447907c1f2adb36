"""A fit while it runs, and its closing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tavt_kit.data.look import DataFacts
from tavt_kit.verbs.search_live import SearchProgress
from tavt_kit.workflows.fit import FitResult, FitStage
from tavt_kit.workflows.fit_plan import FitPlan


class FitProgress(SearchProgress):
    """Shows each stage with its time, on stderr; the answer alone goes to stdout."""

    reasons = 0
    """Reasons of the plan that were said; it is shown again where it grows."""

    def show(self, value: object) -> None:
        """What belongs to the fit in sentences; of the stages' own results only what a search shows."""
        if isinstance(value, FitPlan):
            for reason in value.reasons[self.reasons :]:
                self.say(reason)
            self.reasons = len(value.reasons)
        elif type(value) in _SENTENCES:
            for sentence in _SENTENCES[type(value)](value):
                self.say(sentence)
        else:
            super().show(value)


def _of_stage(stage: FitStage) -> tuple[str, ...]:
    return (f"== {stage.title}" if stage.seconds is None else f"   {stage.seconds:.0f} s",)


def _of_result(result: FitResult) -> tuple[str, ...]:
    return (f"so far: {result.table.advice}",)


_SENTENCES: Mapping[type, Callable[[Any], tuple[str, ...]]] = {
    DataFacts: lambda facts: facts.sentences,
    FitStage: _of_stage,
    FitResult: _of_result,
}


def print_fit(record: Mapping[str, Any], folder: Path) -> None:
    """Five rows, one sentence of advice, and where things lie.

    Args:
        record: Body of ``fit.json``.
        folder: Where it lies.
    """
    table = Table(box=None, pad_edge=False)
    for name in ("", "model", "val %", "test %", "p90 ms", "budget"):
        table.add_column(name, justify="left" if name in ("", "model", "budget") else "right")
    for role, index in record["shown"].items():
        row = record["rows"][index]
        val, test = (None if row[split] is None else f"{100 * row[split]['top1']:.1f}" for split in ("val", "test"))
        table.add_row(
            role, row["name"], val, test,
            f"{row['latency_ms']['p90']:.2f}", row["verdict"] if row["fits"] else "missed",
        )  # fmt: skip
    Console().print(table)
    print(record["advice"])
    if "check" in record:
        print("check on {split}: {verdict}, {reason}".format(**record["check"]))
    if record["recommended"] is not None:
        name = f"model{Path(record['rows'][record['recommended']]['file']).suffix}"
        print(f"ship:   {folder / 'recommended'}   (python predict.py {name} photo.jpg)")
    print(f"report: {folder / 'report.html'}")

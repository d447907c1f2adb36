"""A demo while it runs, and its closing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from tavt_kit.verbs.bench_table import print_bench
from tavt_kit.verbs.console import console_of
from tavt_kit.verbs.distill import print_distilled
from tavt_kit.verbs.export import print_exported
from tavt_kit.verbs.front_view import print_front
from tavt_kit.verbs.search_live import SearchProgress
from tavt_kit.verbs.train import print_trained
from tavt_kit.workflows.bench import BenchResult
from tavt_kit.workflows.demo import DemoBudget, DemoStage, DemoTerms
from tavt_kit.workflows.distill import DistillResult
from tavt_kit.workflows.export import ExportResult
from tavt_kit.workflows.search import SearchRun
from tavt_kit.workflows.train import TrainResult


class DemoProgress(SearchProgress):
    """Shows each stage with its time, and what it gave, as its verb does."""

    def show(self, value: object) -> None:
        """On stdout what belongs to the demo, else as a search does."""
        if type(value) not in _PRINTERS:
            super().show(value)
            return
        # A display that lives on would take the lines of stdout for its own.
        self._end_search()
        self._end_stages()
        self._end_updates()
        _PRINTERS[type(value)](value)


def _print_terms(terms: DemoTerms) -> None:
    for licence in terms.licences:
        print(f"{licence.name}: {licence.licence} ({licence.source}); nothing of it is redistributed")
    print(terms.note)
    if terms.licences[0].is_non_commercial:
        print("Not for commercial use; those who may not use them: fgvc-kit demo --data textile")


def _print_stage(stage: DemoStage) -> None:
    print(f"\n== {stage.title}" if stage.seconds is None else f"   {stage.seconds:.0f} s", flush=True)


def _print_budget(budget: DemoBudget) -> None:
    seen = ", ".join(f"{look:.1f}" for look in budget.looks)
    share = f"{100 * budget.share:.0f} % of {budget.dense:.1f} ms"
    print(f"   dense p90: {seen} ms; the budget is {share}: {budget.budget}")


def _print_found(found: SearchRun) -> None:
    print_front(found.record, place=found.folder)


_PRINTERS: Mapping[type, Callable[[Any], None]] = {
    DemoTerms: _print_terms,
    DemoStage: _print_stage,
    DemoBudget: _print_budget,
    TrainResult: print_trained,
    DistillResult: print_distilled,
    SearchRun: _print_found,
    ExportResult: print_exported,
    BenchResult: print_bench,
}


def print_table(body: Mapping[str, Any]) -> None:
    """Every file's row on stdout."""
    rows: Sequence[Mapping[str, Any]] = body["rows"]
    table = Table(title=f"on the {rows[0]['split']} split, n = {rows[0]['n']}", show_edge=False)
    for name in ("model", "top-1 [95 %]", "GMACs", "median ms", "p90 ms", "x dense", "budget", "note"):
        table.add_column(name, justify="left" if name in ("model", "note") else "right")
    for row in rows:
        low, high = (100 * end for end in row["ci95"])
        accuracy = f"{100 * row['top1']:.1f} % \\[{low:.1f}, {high:.1f}]"
        latency, ratio = row["latency_ms"], row["ratio"]
        if latency is None:
            table.add_row(row["name"], accuracy, "", "", "", "", "", row["note"])
            continue
        times = (f"{latency[view]:.2f}" for view in ("median", "p90"))
        table.add_row(
            row["name"],
            accuracy,
            f"{row['macs'] / 1e9:.2f}",
            *times,
            f"{ratio['value']:.2f}",
            row["verdict"],
            row["note"],
        )
    console_of().print(table)

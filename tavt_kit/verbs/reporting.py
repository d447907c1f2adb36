"""``report`` and ``compare``: what records say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.budget import Verdict, worst
from tavt_kit.verbs.verb import Answer, verb

if TYPE_CHECKING:
    from tavt_kit.comparison.comparison import Change, Comparison
    from tavt_kit.workflows.compare import CompareResult


@verb
def report_verb(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or single records; of one search at most.")
    ],
    **given: Any,
) -> Answer:
    """The exit code is 0 whatever the verdict says."""
    from tavt_kit.workflows.report import report

    result = report(runs, **given)
    if lead := ": ".join(part for part in (result.record["verdict"], result.record["lead"]) if part):
        print(f"{result.record['run']}: {lead}", file=sys.stderr)
    files = {"html": str(result.html), "csv": str(result.csv), "json": str(result.json)}
    return Answer({**result.record, **files}, lambda: print("\n".join(files.values())))


@verb
def compare_verb(
    before: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="A record (bench.json, check.json, ...) or a run folder.")
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one of the same kind.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 where a verdict is INCONCLUSIVE too.")] = False,
    **given: Any,
) -> Answer:
    """Exits 1 where something fails."""
    from tavt_kit.workflows.compare import compare

    result = compare(before, after, **given)
    failed = result.verdict is Verdict.FAIL or (strict and result.verdict is not Verdict.PASS)
    return Answer(result.record, lambda: _print_compared(result), 1 if failed else 0)


def _print_compared(result: CompareResult) -> None:
    """A table for each kind of record, and the whole in one line."""
    for comparison in result.comparisons:
        _print_comparison(comparison)
    changes = [change for comparison in result.comparisons for change in comparison.changes]
    by = {verdict: [change for change in changes if change.verdict is verdict] for verdict in Verdict}
    said = []
    if slower := [change.other for change in by[Verdict.FAIL] if change.figure == "time"]:
        said.append(f"slower by more than {100 * result.threshold:g} %: {', '.join(slower)}")
    if losers := [change.other for change in by[Verdict.FAIL] if change.figure != "time"]:
        said.append(f"less accurate by more than {result.drop:g} points: {', '.join(losers)}")
    if undecided := len(by[Verdict.INCONCLUSIVE]):
        said.append(f"{undecided} of {len(changes)} figures cannot be told from these records")
    if passed := len(by[Verdict.PASS]):
        said.append(f"{passed} of {len(changes)} within the limits")
    print(f"{worst(change.verdict for change in changes)}: {'; '.join(said) or 'nothing to compare'}")


def _print_comparison(comparison: Comparison) -> None:
    from tavt_kit.verbs.console import print_table

    rows = []
    for said in comparison.meant:
        print(said, file=sys.stderr)
    for change in comparison.changes:
        name = change.name if change.name == change.other else f"{change.name} -> {change.other}"
        rows.append((name, change.figure, *_figures(change), str(change.verdict)))
    print_table(("candidate", "figure", "before", "after", "change [95 %]", "verdict"), rows, width=120)
    print(f"{comparison.kind}: {comparison.method}")
    for title, parts in (
        ("only in the first", comparison.only_before),
        ("only in the second", comparison.only_after),
        ("compared although these differ", comparison.differing),
        ("also different", comparison.facts),
        ("doubts", tuple(dict.fromkeys(note for change in comparison.changes for note in change.notes))),
    ):
        if parts:
            print(f"{title}: {'; '.join(parts)}")


def _figures(change: Change) -> tuple[str, str, str]:
    """Before, after and the change with its bounds, as text."""
    from tavt_kit.reports.words import percent_text, points_text

    value, low, high = change.estimate.value, change.estimate.low, change.estimate.high
    if change.figure == "time":
        interval = f" [{100 * (low - 1):+.1f}, {100 * (high - 1):+.1f}]" if change.estimate.sure else " [?]"
        return f"{change.before:.4g} ms", f"{change.after:.4g} ms", f"{100 * (value - 1):+.1f} %{interval}"
    points = f"{points_text(value)} points [{points_text(low)}, {points_text(high)}]"
    return percent_text(change.before), percent_text(change.after), points

"""``fgvc-kit compare``: two records side by side, with significance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.comparison.comparison import Change, Comparison

Before = Annotated[
    Path, typer.Argument(metavar="BEFORE", help="A record (bench.json, check.json, ...) or a run folder.")
]
After = Annotated[Path, typer.Argument(metavar="AFTER", help="Another one of the same kind.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 where a verdict is INCONCLUSIVE too.")]


def compare_verb(
    before: Before,
    after: After,
    strict: Strict = False,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Exits 1 where something fails."""
    from tavt_kit.core.budget import Verdict
    from tavt_kit.workflows.compare import compare

    result = compare(before, after, **read_settings("compare", settings))
    if as_json:
        print(json.dumps(result.record, allow_nan=False))
    else:
        for each in result.comparisons:
            _print(each)
        changes = [change for each in result.comparisons for change in each.changes]
        print(_sentence(changes, result.threshold, result.drop))
    return 1 if result.verdict is Verdict.FAIL or (strict and result.verdict is not Verdict.PASS) else 0


def _print(comparison: Comparison) -> None:
    from rich.markup import escape

    from tavt_kit.verbs.console import console_of, table_of

    console = console_of(120)
    names = [one.name if one.name == one.other else f"{one.name} -> {one.other}" for one in comparison.changes]
    rows = (
        (name, change.figure, *_figures(change), str(change.verdict))
        for name, change in zip(names, comparison.changes, strict=True)
    )
    console.print(table_of(("candidate", "figure", "before", "after", "change [95 %]", "verdict"), rows))
    console.print(escape(f"{comparison.kind}: {comparison.method}"), highlight=False, soft_wrap=True)
    for title, parts in (
        ("only in the first", comparison.only_before),
        ("only in the second", comparison.only_after),
        ("compared although these differ", comparison.differing),
        ("also different", comparison.facts),
        ("doubts", tuple(dict.fromkeys(note for change in comparison.changes for note in change.notes))),
    ):
        if parts:
            console.print(escape(f"{title}: {'; '.join(parts)}"), highlight=False, soft_wrap=True)


def _figures(change: Change) -> tuple[str, str, str]:
    """Before, after and the change with its bounds, as text."""
    value, low, high = change.estimate.value, change.estimate.low, change.estimate.high
    if change.figure == "time":
        interval = f" [{100 * (low - 1):+.1f}, {100 * (high - 1):+.1f}]" if change.estimate.sure else " [?]"
        return f"{change.before:.4g} ms", f"{change.after:.4g} ms", f"{100 * (value - 1):+.1f} %{interval}"
    interval = f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * change.before:.1f} %", f"{100 * change.after:.1f} %", f"{100 * value:+.1f} points{interval}"


def _sentence(changes: Sequence[Change], threshold: float, drop: float) -> str:
    """The whole, in one line."""
    from tavt_kit.core.budget import Verdict, worst

    by = {verdict: [change for change in changes if change.verdict is verdict] for verdict in Verdict}
    said = []
    if slower := [change.other for change in by[Verdict.FAIL] if change.figure == "time"]:
        said.append(f"slower by more than {100 * threshold:g} %: {', '.join(slower)}")
    if worse := [change.other for change in by[Verdict.FAIL] if change.figure != "time"]:
        said.append(f"less accurate by more than {drop:g} points: {', '.join(worse)}")
    if open_ := len(by[Verdict.INCONCLUSIVE]):
        said.append(f"{open_} of {len(changes)} figures cannot be told from these records")
    if passed := len(by[Verdict.PASS]):
        said.append(f"{passed} of {len(changes)} within the limits")
    return f"{worst(change.verdict for change in changes)}: {'; '.join(said) or 'nothing to compare'}"

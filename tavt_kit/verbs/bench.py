"""``fgvc-kit bench``: latency of models, schedules and exported files on a target, measured against one another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.budget import Verdict
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.bench.record import BenchRow
    from tavt_kit.workflows.bench import BenchResult


Things = Annotated[
    list[str] | None,
    typer.Argument(metavar="[THING...]", help="Run folders, timm models' names, .onnx and .xml files."),
]


def bench_verb(
    things: Things = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """With --budget the exit code is 1 unless all PASS. --dense is short for --schedule dense."""
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.bench import bench

    with ConsoleProgress() as progress:
        found = bench(things or (), progress=progress, **read_settings("bench", settings))
    if as_json:
        print(json.dumps({**found.record, "file": str(found.file)}))
    else:
        print_bench(found)
    return 0 if found.verdict is Verdict.PASS else 1


_Cell = Callable[["BenchRow", Mapping[str, Any]], str]


def print_bench(found: BenchResult) -> None:
    """Print the tables of a bench, and what is to be said of its candidates and of the machine."""
    from rich.markup import escape

    from tavt_kit.core.host import HostFacts
    from tavt_kit.verbs.console import console_of, table_of

    console, body, rows = console_of(140), found.record, found.record["candidates"]

    def say(sentence: str) -> None:
        console.print(escape(sentence), highlight=False)

    pairs = list(zip(found.rows, rows, strict=True))

    def show(columns: Mapping[str, _Cell]) -> None:
        cells = ((one.name, *(cell(one, row) for cell in columns.values())) for one, row in pairs)
        console.print(table_of(("candidate", *columns), cells))

    show(_TIMES)
    behind = {title: cell for title, cell in _BEHIND.items() if any(cell(one, row) for one, row in pairs)}
    if len(behind) > 1:
        console.print()
        show(behind)
    targets = ", ".join(dict.fromkeys(str(one.target) for one in found.rows))
    say(f"{targets}; ratio: time of {body['reference']} over this one's")
    for one, row in pairs:
        for sentence in _sentences(one, row):
            say(f"{one.name}: {sentence}")
    for reason in dict.fromkeys((row["energy"] or {}).get("reason") or "" for row in rows):
        if reason:
            say(f"no energy: {reason}")
    noise = found.noise
    say(f"the machine was {noise.word}" + (f": {'; '.join(noise.reasons)}" if noise.reasons else ""))
    say(f"{HostFacts.from_record(body['host'])}; inputs: {body['inputs']}; {found.file}")


def _sentences(one: BenchRow, row: Mapping[str, Any]) -> list[str]:
    found = []
    if row["ratio"]["says"] == "INCONCLUSIVE":
        found.append("INCONCLUSIVE whether faster or slower: the interval of its ratio has 1 in it")
    if not one.latency.steady:
        found.append("unsteady: its median is not known within the protocol's 1 %; --max-time gives it longer")
    found += [f"DOUBT: {doubt}" for doubt in one.doubts]
    if one.executed is not None:
        found.append(f"ran {one.executed}")
    if row["memory"] is not None and row["memory"]["reason"]:
        found.append(f"no memory: {row['memory']['reason']}")
    return [*found, *map(_verdict, row["budgets"])]


def _verdict(verdict: Mapping[str, Any]) -> str:
    from tavt_kit.core.budget import Limit

    limit, low, high = Limit.parse(verdict["budget"]), verdict["low"], verdict["high"]
    if low is None:
        why = verdict["reason"]
    elif high is None:
        why = f"at least {limit.show(low)}, and too few runs for more"
    else:
        why = limit.show(low) if low == high else f"{limit.show(low)} to {limit.show(high)}"
    return f"{limit} {verdict['verdict']} ({why})"


def _number(value: float | None, unit: str = "", factor: float = 1.0) -> str:
    return "" if value is None else f"{factor * value:.3g}{unit}"


def _with_interval(ratio: Mapping[str, Any] | None, factor: float, unit: str) -> str:
    if ratio is None:
        return ""
    value, low, high = (f"{factor * ratio[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value}{unit}" if low == high else f"{value}{unit} [{low}, {high}]"


_TIMES: dict[str, _Cell] = {
    "median": lambda one, row: str(one.latency).split(" (n=")[0],
    "p10": lambda one, row: _number(one.latency.p10, " ms"),
    "p90": lambda one, row: _number(one.latency.p90, " ms"),
    "p99": lambda one, row: _number(one.latency.p99, " ms"),
    "images/s": lambda one, row: _number(one.throughput),
    "ratio": lambda one, row: _with_interval(row["ratio"], 1, "x"),
}
_BEHIND: dict[str, _Cell] = {
    "first": lambda one, row: _number(one.latency.first_ms, " ms"),
    "load": lambda one, row: _number(one.latency.load_ms, " ms"),
    "compile": lambda one, row: _number(one.compile_ms, " ms"),
    "size": lambda one, row: _number(one.size_bytes, " MB", 1e-6),
    "GMACs": lambda one, row: _number(one.macs, "", 1e-9),
    "MAC gain": lambda one, row: _with_interval(row["gain_share"], 100, " %"),
    "GFLOP/s": lambda one, row: _number(one.gflops),
    "of peak": lambda one, row: _number(one.peak_share, " %", 100),
    "memory": lambda one, row: _number(one.memory_bytes, " MB", 1e-6),
    "J/image": lambda one, row: _number((row["energy"] or {}).get("joules")),
}

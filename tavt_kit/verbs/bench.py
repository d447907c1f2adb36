"""``fgvc-kit bench``: latency of models, schedules and exported files on a target, measured against one another."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        result = bench(things or (), progress=progress, **read_settings("bench", settings))
    if as_json:
        print(json.dumps({**result.record, "file": str(result.file)}))
    else:
        print_bench(result)
    return 0 if result.verdict is Verdict.PASS else 1


def print_bench(result: BenchResult) -> None:
    """Print the table of a bench, and what is to be said of its candidates and of the machine."""
    from tavt_kit.core.host import HostFacts
    from tavt_kit.reports.latency import benches_section
    from tavt_kit.verbs.tables import print_sections

    body, rows = result.record, result.record["candidates"]
    print_sections("bench", result.file, body, benches_section)
    for one, row in zip(result.rows, rows, strict=True):
        for sentence in _sentences(one, row):
            print(f"{one.name}: {sentence}")
    for reason in dict.fromkeys((row["energy"] or {}).get("reason") or "" for row in rows):
        if reason:
            print(f"no energy: {reason}")
    print(f"{HostFacts.from_record(body['host'])}; {result.file}")


def _sentences(one: BenchRow, row: Mapping[str, Any]) -> list[str]:
    said = []
    if not one.latency.steady:
        said.append("unsteady: its median is not known within the protocol's 1 %; --max-time gives it longer")
    if row["memory"] is not None and row["memory"]["reason"]:
        said.append(f"no memory: {row['memory']['reason']}")
    return [*said, *map(_verdict, row["budgets"])]


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

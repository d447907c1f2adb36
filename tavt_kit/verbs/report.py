"""``fgvc-kit report``: one HTML file with its Markdown, CSV and JSON twins, from the records of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs.options import Json

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run folders, or single records; several searches are set side by side."),
]
ReportOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="The folder to write. [default: RUN; of several searches report]")
]
ReportBudget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="Choose again for this one, such as latency=8ms, from what was measured; repeatable. [default: the "
        "search's]",
    ),
]
Across = Annotated[bool, typer.Option(help="Set searches of different machines or targets side by side.")]


def report_verb(
    runs: Runs, budget: ReportBudget = None, out: ReportOut = None, across: Across = False, as_json: Json = False
) -> int:
    """Write report.html (one file, opens offline), report.md, report.csv and report.json from the records of runs.

    No model is loaded and nothing is measured. What was not recorded is named, with the command that records it.
    The exit code is 0 whatever the verdict says.
    """
    from tavt_kit.workflows.report import report

    found = report(runs, budget=budget or (), out=out, across=across)
    files = {"html": found.html, "markdown": found.markdown, "csv": found.csv, "json": found.json}
    if as_json:
        print(json.dumps({**found.record, **{name: str(path) for name, path in files.items()}}))
    else:
        print("\n".join(map(str, files.values())))
    return 0

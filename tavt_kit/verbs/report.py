"""``fgvc-kit report``: one HTML file and its Markdown twin, from the records of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs.options import Json

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run folders, or single records such as bench.json.")
]
ReportOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of report.html and report.md. [default: the first RUN]")
]


def report_verb(runs: Runs, out: ReportOut = None, as_json: Json = False) -> int:
    """Write report.html (one file, opens offline) and report.md from the records of one or more runs.

    No model is loaded and nothing is measured. What was not recorded is named, with the command that records it.
    The exit code is 0 whatever the verdict says.
    """
    from tavt_kit.reports import write_report

    first = runs[0]
    page, note = write_report(runs, out or (first if first.is_dir() else first.parent))
    if as_json:
        print(json.dumps({"schema": "fgvc-kit/report", "version": 1, "html": str(page), "markdown": str(note)}))
    else:
        print(f"{page}\n{note}")
    return 0

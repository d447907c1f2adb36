"""``fgvc-kit report``: one HTML file with its CSV and JSON twins, from the records of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run folders, or single records; of one search at most."),
]


def report_verb(
    runs: Runs,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """The exit code is 0 whatever the verdict says."""
    from tavt_kit.workflows.report import report

    result = report(runs, **read_settings("report", settings))
    files = {"html": result.html, "csv": result.csv, "json": result.json}
    if as_json:
        print(json.dumps({**result.record, **{name: str(path) for name, path in files.items()}}))
    else:
        print("\n".join(map(str, files.values())))
    return 0

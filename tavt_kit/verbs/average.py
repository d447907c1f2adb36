"""``fgvc-kit average``: one network of several that began with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings


def average_verb(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, two or more.", metavar="RUN...")],
    out: options.Out,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Prints a line for each run: its own top-1, and the mean's at its image size."""
    from tavt_kit.reports.candidates import Estimate, points_of
    from tavt_kit.verbs.console import ConsoleProgress, console_of, table_of
    from tavt_kit.workflows.average import average

    given = read_settings("average", settings)
    with ConsoleProgress() as progress:
        done = average(runs, out, progress=progress, **given)
    if as_json:
        print(json.dumps({**done.record, "folder": str(done.folder)}))
        return 0
    rows = []
    for row in done.record["rows"]:
        change = Estimate.of(row["difference"], "difference")
        top1 = (f"{100 * row[key]['value']:.1f}" for key in ("top1", "average_top1"))
        rows.append((row["run"], str(row["image_size"]), *top1, points_of(change), change.points if change else ""))
    print(f"{done.folder}: one network for all of these; top-1 on val, %")
    console_of().print(table_of(("run", "pixels", "its own", "the mean's", "points", "95 %, paired"), rows))
    return 0

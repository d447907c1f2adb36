"""``fgvc-kit check``: is this file still that model? Asked of real images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.export import Accept, Drop, FileTarget
from tavt_kit.verbs.settings import read_settings

Thing = Annotated[
    Path | None,
    typer.Argument(metavar="[THING]", help="An .onnx or .xml file, *.unproven, or a run that was trained again."),
]
Against = Annotated[
    Path | None,
    typer.Option(help="The run it was exported from, or the old run. [default: what exported.json beside THING names]"),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="Of a run, a switchable file, or --predictions: a schedule, an exported file, or a search's folder."
    ),
]
Predictions = Annotated[
    Path | None, typer.Option(help="An .npz file of logits made elsewhere, judged instead of running THING here.")
]
CheckOut = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of check.json. [default: where THING lies]")]


def check_verb(
    thing: Thing = None,
    against: Against = None,
    schedule: Schedule = None,
    preset: options.Preset = None,
    predictions: Predictions = None,
    data: options.Data = None,
    drop: Drop = 0.5,
    accept_inconclusive: Accept = False,
    target: FileTarget = None,
    settings: options.Set = None,
    out: CheckOut = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Compare an exported file with its source on the same real images, and write check.json.

    The file sees the images through the preprocessing it carries. An f32 file must give its source's logits; others may
    lose --drop points of top-1, decided by the paired 95 % interval. So may logits made on another device
    (--predictions) and a run trained again, which is compared with the old one at the same --schedule. A *.unproven
    file that passes gets its final name; no file is removed. Exits 1 unless the verdict is PASS, or INCONCLUSIVE and
    accepted.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.verbs.tables import print_checks
    from tavt_kit.workflows.check import check

    with ConsoleProgress() as progress:
        found = check(
            thing, against, schedule=schedule, preset=preset, predictions=predictions, data=data, max_drop=drop,
            accept_inconclusive=accept_inconclusive, target=target, out=out, progress=progress,
            **read_settings("check", settings),
        )  # fmt: skip
    records = [one.record for one in found.checks]
    for note in found.notes:
        print(f"fgvc-kit check: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(records[0] if len(records) == 1 else records))
    else:
        print_checks(records)
    return 0 if found.accepted else 1

"""``fgvc-kit check``: is this file still that model? Asked of real images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

Thing = Annotated[
    Path | None,
    typer.Argument(metavar="[THING]", help="An .onnx or .xml file, or *.unproven."),
]


def check_verb(
    thing: Thing = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Exits 1 unless the verdict is PASS, or INCONCLUSIVE and the file is taken or accepted."""
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.verbs.tables import print_checks
    from tavt_kit.workflows.check import check

    with ConsoleProgress() as progress:
        result = check(thing, progress=progress, **read_settings("check", settings))
    records = [one.record for one in result.checks]
    for note in result.notes:
        print(f"fgvc-kit check: {note}", file=sys.stderr)
    if as_json:
        print(json.dumps(records[0] if len(records) == 1 else records))
    else:
        print_checks(records)
    return 0 if result.accepted else 1

"""``fgvc-kit fit``: from images and a budget to the best model that was measured, checked and ready to ship."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

Images = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A folder of class folders, a CSV list (path,label[,split]), NAME:FOLDER, elpv or textile."
    ),
]
FitOut = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The folder to write; the same command continues it. [default: runs/fit-DATA]"),
]


def fit_verb(
    data: Images,
    out: FitOut = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Exits 1 where nothing keeps to the budget."""
    from tavt_kit.verbs.live import FitProgress
    from tavt_kit.workflows.fit import fit

    folder = out or Path("runs") / f"fit-{Path(data.partition(':')[2] or data).name}"
    with FitProgress() as progress:
        result = fit(data, folder, progress=progress, **read_settings("fit", settings))
    if as_json:
        print(json.dumps(result.record))
    else:
        print_fit(result.record, result.folder)
    return 0 if result.recommended is not None else 1


def print_fit(record: Mapping[str, Any], folder: Path) -> None:
    """Five rows, one sentence of advice, and where things lie.

    Args:
        record: Body of ``fit.json``.
    """
    from tavt_kit.verbs.console import console_of, table_of
    from tavt_kit.workflows.run_model import recommended_file

    rows = []
    for role, index in record["shown"].items():
        row = record["rows"][index]
        val, test = (None if row[split] is None else f"{100 * row[split]['top1']:.1f}" for split in ("val", "test"))
        verdict = row["verdict"] if row["fits"] else "missed"
        rows.append((role, row["name"], val, test, f"{row['latency_ms']['p90']:.2f}", verdict))
    console_of().print(table_of(("", "model", "val %", "test %", "p90 ms", "budget"), rows, left=("model", "budget")))
    print(record["advice"])
    if "check" in record:
        print("check on {split}: {verdict}, {reason}".format(**record["check"]))
    if (file := recommended_file(folder, record)) is not None:
        print(f"ship:   {file.parent}   (python predict.py {file.name} photo.jpg)")
    print(f"report: {folder / 'report.html'}")

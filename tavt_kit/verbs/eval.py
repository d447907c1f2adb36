"""``fgvc-kit eval``: what a run or an exported file has right, class by class, and how sure it is of it."""

from __future__ import annotations

import json
from pathlib import Path

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings


def eval_verb(
    thing: options.Thing,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """--dense is short for --schedule dense."""
    from tavt_kit.evaluation.record import EVAL_FILE
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.evaluate import evaluate

    with ConsoleProgress() as progress:
        result = evaluate(thing, progress=progress, **read_settings("eval", settings))
    if as_json:
        print(json.dumps(result.record))
        return 0
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.reports.correctness import evaluated_section
    from tavt_kit.verbs.tables import print_sections

    record, folder = result.record, result.folder or Path()
    print(f"{record['thing']} under {record['schedule']}: top-1 {Accuracy.from_record(record['top1'])}")
    if record["skipped"]:
        print(f"{record['skipped']} images could not be read and were skipped")
    print_sections("eval", folder / EVAL_FILE, record, evaluated_section)
    if result.folder is not None:
        print(f"{folder / EVAL_FILE}, and beside it {', '.join(file['file'] for file in record['files'])}")
    return 0

"""``fgvc-kit train``: adapt a pretrained model to a data set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.workflows.train import TrainResult


def train_verb(
    model: options.Model,
    out: options.Out,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Defaults of the settings are those of the recipe probe, which --recipe replaces; run.json records all of them.

    `accelerate launch` or torchrun before it shares the work among several processes.
    """
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.train import train

    given = read_settings("train", settings)
    with ConsoleProgress() as progress:
        result = train(model, out, progress=progress, **given)
    if not print_record(result, as_json, given.get("dry_run", False)):
        schedule = result.record["asked"].get("schedule", "dense")
        print(f"{result.folder}: {schedule} top-1 {result.top1}")
        if probe := result.record["results"].get("probe"):
            print(f"head: penalty {probe['penalty']:g}, top-1 {Accuracy.from_record(probe['accuracy'])}")
    return 0


def print_record(result: TrainResult, as_json: bool, dry_run: bool) -> bool:
    """Print a run's record where that is asked for; whether nothing is left to say, as in all processes but one."""
    if dry_run or (as_json and result.speaks):
        print(json.dumps(result.record, indent=1 if dry_run else None))
    return dry_run or as_json or not result.speaks

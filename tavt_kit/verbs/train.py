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
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.train import train

    given = read_settings("train", settings)
    with ConsoleProgress() as progress:
        done = train(model, out, progress=progress, **given)
    if given.get("dry_run"):
        print(json.dumps(done.record, indent=1))
    elif done.speaks and as_json:
        print(json.dumps(done.record))
    elif done.speaks:
        print_trained(done)
    return 0


def print_trained(done: TrainResult) -> None:
    """Its accuracy on stdout, and the penalty of a probe."""
    from tavt_kit.core.accuracy import Accuracy

    print(f"{done.folder}: dense top-1 {done.top1}")
    if probe := done.record["results"].get("probe"):
        print(f"head: penalty {probe['penalty']:g}, top-1 {Accuracy.from_record(probe['accuracy'])}")

"""``fgvc-kit train``: adapt a pretrained model to a data set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.workflows.train import TrainResult

Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE.toml",
        help="probe, finetune, modern, a published recipe such as ffvt-cub (docs/recipes.md), or a TOML file.",
    ),
]


def train_verb(
    model: options.Model,
    out: options.Out,
    data: options.Data = None,
    recipe: Recipe = "probe",
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    steps: options.Steps = None,
    batch: options.Batch = None,
    lr: options.Rate = None,
    device: options.Device = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    allow_unreadable: options.AllowUnreadable = 0,
    settings: options.Set = None,
    fresh: options.Fresh = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Fit a model to a data set by a recipe: its head on cached features (probe), some blocks, or everything.

    A setting replaces a value of the recipe, and the result is written to run.json; their defaults below are those of
    the recipe probe. The penalty of a probe is chosen by val accuracy; with --evaluate-every the weights are, too. An
    unreadable image in the training split is refused; --allow-unreadable is for val. Writes run.json, split.json,
    metrics.jsonl, tensorboard/, model.safetensors and model.json; the same command continues what was interrupted.
    `accelerate launch` or torchrun before it shares the work among several processes.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.train import train

    with ConsoleProgress() as progress:
        done = train(
            model, out, data, recipe=recipe, weights=weights, image_size=image_size, steps=steps, batch=batch, lr=lr,
            device=device, seed=seed, limit=limit, allow_unreadable=allow_unreadable, fresh=fresh, dry_run=dry_run,
            progress=progress, **read_settings("train", settings),
        )  # fmt: skip
    if dry_run:
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

"""``fgvc-kit distill``: teach a fine-tuned model to work with dropped patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from tavt_kit.workflows.distill import DistillResult

Run = Annotated[Path, typer.Argument(metavar="MODEL", help="A run folder, for example of `fgvc-kit train`.")]
Recipe = Annotated[
    str,
    typer.Option(
        help="modern (AdamW), merge (for that reduction, from a fine-tune), tavt (the official SGD with layer dropout, "
        "bound 0.2), or a TOML file."
    ),
]
ScheduleFile = Annotated[
    Path | None,
    typer.Option(help="Distil the schedules of a search instead: its run folder or front.json; see --schedule too."),
]
TeacherRun = Annotated[
    Path | None, typer.Option("--teacher", help="A run of the same classes to learn from beside the labels.")
]


def distill_verb(
    model: Run,
    out: options.Out,
    data: options.Data = None,
    recipe: Recipe = "modern",
    schedule: options.Schedules = None,
    schedules: ScheduleFile = None,
    teacher: TeacherRun = None,
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
    """Distil a fine-tuned model into itself with patch drop, so that dropped schedules keep its accuracy.

    Each step trains the full network by its family's loss, and the smallest and random sub-networks towards it (the
    sandwich rule); --schedules takes the sub-networks from a search's front, so that distil, search, distil again
    trains what was found. Images and split are those MODEL was trained on; other data is refused. The accuracy of a
    fixed ladder of schedules on val, down to ten times fewer multiply-adds, is recorded before and after;
    --evaluate-every selects by the mean of the metric over it. The same command continues what was interrupted.
    `accelerate launch` or torchrun before it shares the work among several processes.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.distill import distill

    with ConsoleProgress() as progress:
        done = distill(
            model, out, data, recipe=recipe, schedule=schedule or (), schedules=schedules, teacher=teacher,
            steps=steps, batch=batch, lr=lr, device=device, seed=seed, limit=limit,
            allow_unreadable=allow_unreadable, fresh=fresh, dry_run=dry_run, progress=progress,
            **read_settings("distill", settings),
        )  # fmt: skip
    if dry_run:
        print(json.dumps(done.record, indent=1))
    elif done.speaks and as_json:
        print(json.dumps(done.record))
    elif done.speaks:
        print_distilled(done)
    return 0


def print_distilled(done: DistillResult) -> None:
    """The ladder on stdout, before and after."""
    from rich.markup import escape

    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import console_of, table_of

    results = done.record["results"]
    rows = []
    for old, entry in zip(results["before"], results["after"], strict=True):
        before, after = (Accuracy.from_record(step["accuracy"]) for step in (old, entry))
        paired = entry["difference"]
        low, high = (100 * end for end in paired["ci95"])
        rows.append((
            entry["name"], f"{entry['macs'] / 1e9:.3g} G", f"{100 * before.value:.1f}",
            f"{100 * after.value:.1f} [{100 * after.low:.1f}, {100 * after.high:.1f}]",
            f"{100 * paired['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
        ))  # fmt: skip
    title = f"{done.folder}: top-1 on {results['val']['split']}, % [95 %]"
    titles = ("schedule", "MACs", "before", "after", "difference, paired")
    console_of().print(table_of(titles, rows, title=escape(title)))
    loop = results["loop"]
    pace = "" if loop["seconds_per_step"] is None else f", {loop['seconds_per_step']:.2f} s a step"
    print(f"{loop['steps']} steps in {loop['seconds']:.0f} s{pace}")

"""``fgvc-kit search``: the schedules that fit a budget, found on val, measured on the target."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tavt_kit.core.budget import Verdict
from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

Target = Annotated[
    str | None,
    typer.Option(help="Where it will run, e.g. openvino:cpu:threads=2. Needed for a latency; else MACs are the cost."),
]
Evaluations = Annotated[int, typer.Option(help="Schedules to evaluate, the dense model included.")]
Algorithm = Annotated[
    str, typer.Option(help="nsga2, surrogate (fewer evaluations), tavt (mended), tavt-official or random.")
]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        "--objective",
        help="A metric (top1, macro_f1, recall[CLASS], loss, agreement) or a cost (macs, latency, throughput); "
        "repeat for two or three. [default: top1 against latency with a target, else macs]",
    ),
]
Schedules = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule",
        "--seed-schedules",
        help="One to begin with: dense, taper:0.2, stages:0.5, or counts such as 197x4,150x4,90x4; repeat for several.",
    ),
]
Baseline = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        help="A model of yours to hold it against: an exported file, a run, or a timm name (random weights: its time "
        "alone counts); repeat for several.",
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        help="What stays as the model has it: image-size, layers, reduction, precision, or all, to search schedules "
        "alone; repeat, or list with commas. [default: none]"
    ),
]


def search_verb(
    model: options.Model,
    out: options.Out,
    data: options.Data = None,
    target: Target = None,
    budget: options.Budgets = None,
    weights: options.Weights = None,
    schedule: Schedules = None,
    algorithm: Algorithm = "nsga2",
    objective: Objectives = None,
    evaluations: Evaluations = 300,
    max_time: options.MaxTime = None,
    fix: Fix = None,
    baseline: Baseline = None,
    seed: options.Seed = 0,
    settings: options.Set = None,
    dry_run: options.DryRun = False,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Find the most accurate configuration under a budget; with a floor (top1, drop), the cheapest that keeps it.

    Image size, token schedule, dropping or merging, precision and the layers that run are searched together; the dense
    model at each of these is a candidate like any other. --fix keeps any of them as it is.

    The fastest model that loses at most half a point: --budget drop=0.5 --target openvino:cpu.

    Selection is on val alone. Latencies are predicted from a table of layer times measured on the target first,
    and the best of the front are measured end to end there. Every evaluation is stored the moment it is done: the
    same command goes on where it was stopped, with more or fewer --workers if you like. A candidate that is clearly
    behind a cheaper one on the first images is looked at no further (--screen); what the front shows was evaluated
    on all of val. --max-time bounds the whole of it, and finalists for which no time was left are named. Models of
    yours (--baseline) are evaluated and measured among the finalists; where one of them does better, it is what is
    recommended. With --profile the target is another machine: the verdict is PREDICTED, until what bench --pack
    measures there is carried back. Exits 1 where the chosen schedule is not proven to keep to the budget, 2 where no
    schedule can.
    """
    from tavt_kit.verbs.live import SearchProgress
    from tavt_kit.verbs.tables import print_front
    from tavt_kit.workflows.search import search

    with SearchProgress() as progress:
        found = search(
            model, out=out, target=target, budget=budget or (), data=data, weights=weights, schedule=schedule or (),
            algorithm=algorithm, objective=objective or (), evaluations=evaluations, max_time=max_time,
            fix=fix or (), baseline=baseline or (), seed=seed, fresh=fresh, dry_run=dry_run, progress=progress,
            **read_settings("search", settings),
        )  # fmt: skip
    if dry_run:
        print(json.dumps(found.record, indent=1))
        return 0
    if as_json:
        print(json.dumps(found.record))
    else:
        print_front(found.record, folder=out)
    return 0 if found.verdict is Verdict.PASS else 1

"""``fgvc-kit search``: the schedules that fit a budget, found on val, measured on the target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from tavt_kit.latency_table import LatencyTable

__all__ = ["search_verb"]

Target = Annotated[
    str | None,
    typer.Option(help="Where it will run, e.g. openvino:cpu:threads=2. Needed for a latency; else MACs are the cost."),
]
Evaluations = Annotated[int, typer.Option(help="Schedules to evaluate, the dense model included.")]
Population = Annotated[int, typer.Option(help="Schedules of a generation.")]
Finalists = Annotated[int, typer.Option("--final", help="Candidates of the front to measure end to end.")]
Profile = Annotated[
    Path | None, typer.Option(help="A profile.json carried from the target: predict by it, and measure nothing here.")
]


def search_verb(
    model: options.Model,
    out: options.Out,
    data: options.Data = None,
    target: Target = None,
    profile: Profile = None,
    budget: options.Budgets = None,
    weights: options.Weights = None,
    schedule: options.Schedules = None,
    score: options.Score = None,
    pool: options.Pool = None,
    precision: options.Precision = None,
    image_size: options.ImageSize = None,
    evaluations: Evaluations = 300,
    population: Population = 16,
    max_time: options.MaxTime = None,
    final: Finalists = 6,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    allow_unreadable: options.AllowUnreadable = 0,
    dry_run: options.DryRun = False,
    fresh: options.Fresh = False,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """Find the most accurate token schedules under a budget; with a floor (top1, drop), the cheapest that keeps it.

    Selection is on val alone. Latencies are predicted from a table of layer times measured on the target first,
    and the best of the front are measured end to end there. Every evaluation is stored before the next begins:
    the same command goes on where it was stopped. Each --schedule is one to begin with. --max-time bounds the
    time spent on evaluations. With --profile the target is another machine: the verdict is PREDICTED, until what
    bench --pack measures there is carried back. Exits 1 where the chosen schedule is not proven to keep to the
    budget, 2 where no schedule can.
    """
    from tavt_kit.budget import Budget
    from tavt_kit.device import TargetDevice
    from tavt_kit.verbs.search_request import Request

    table = None if profile is None else _carried(profile, target, precision)
    device = None if target is None else TargetDevice.parse(target, precision=precision).resolved()
    request = Request(
        model=model,
        out=out,
        data=data,
        target=device if table is None else table.target,
        profile=table,
        budget=Budget.parse(budget or ()),
        weights=weights,
        schedules=tuple(schedule or ()),
        score=score,
        pool=pool,
        image_size=image_size,
        evaluations=evaluations,
        population=population,
        max_seconds=options.parse_duration(max_time),
        final=final,
        seed=seed,
        limit=limit,
        allow_unreadable=allow_unreadable,
        fresh=fresh,
    )
    from tavt_kit.verbs.front_view import print_front
    from tavt_kit.verbs.search_job import plan, run_search

    if dry_run:
        print(json.dumps(plan(request), indent=1))
        return 0
    body = run_search(request)
    if as_json:
        print(json.dumps(body))
    else:
        print_front(body, place=out)
    return 0 if body["verdict"] == "PASS" else 1


def _carried(profile: Path, target: str | None, precision: str | None) -> LatencyTable:
    from tavt_kit.verbs.search_target import read_profile

    return read_profile(profile, target, precision)

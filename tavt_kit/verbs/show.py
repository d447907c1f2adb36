"""``fgvc-kit show``: the front of a search or the rows of a fit, and a candidate picked from a front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tavt_kit.verbs import options

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of search or fit, or its front.json.")]
Pick = Annotated[
    list[str] | None,
    typer.Option(help="The best within these limits, such as latency=8ms, flops=3G, top1=80%; repeat for several."),
]
Knee = Annotated[bool, typer.Option("--knee", help="The candidate after which spending more buys little.")]


def show_verb(run: Run, pick: Pick = None, knee: Knee = False, as_json: options.Json = False) -> int:
    """Print the front of a search; with --pick or --knee mark another candidate than the chosen one.

    The schedule of the marked candidate is the last line, ready for --schedule; of one with other genes its --pick for
    fgvc-kit export. Limits are held against the recorded values: the measured latency where there is one. Exits 1 where
    nothing on the front keeps to --pick.
    """
    from tavt_kit.core.configuration import Configuration
    from tavt_kit.core.records import read_record
    from tavt_kit.errors import BudgetError
    from tavt_kit.verbs.tables import print_front
    from tavt_kit.workflows.schedules import best_within, knee_of

    if pick and knee:
        raise BudgetError("--pick and --knee each choose a candidate; give one of them")
    if (run / "fit.json").is_file():
        from tavt_kit.verbs.fit import print_fit

        fit = read_record(run / "fit.json", "fit")
        print(json.dumps(fit)) if as_json else print_fit(fit, run)
        return 0
    file = run / "front.json" if run.is_dir() else run
    body = read_record(file, "front")
    marked = knee_of(body) if knee else best_within(body, pick) if pick else body.get("chosen")
    if as_json:
        picked = None if marked is None else body["candidates"][marked]
        print(json.dumps({"picked": picked} if pick or knee else body))
    else:
        print_front(body, folder=file.parent, marked=-1 if marked is None else marked)
        if marked is not None:
            candidate = Configuration.from_record(body["candidates"][marked])
            print(candidate if candidate.choice is candidate.schedule else f"--pick {marked}")
    return 1 if pick and marked is None else 0

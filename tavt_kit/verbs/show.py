"""``fgvc-kit show``: the front of a search in the terminal, and a candidate picked from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options

__all__ = ["show_verb"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of search, or its front.json.")]
Pick = Annotated[
    list[str] | None,
    typer.Option(help="The best within these limits, such as latency=8ms, flops=3G, top1=80%; repeat for several."),
]
Knee = Annotated[bool, typer.Option("--knee", help="The candidate after which spending more buys little.")]


def show_verb(run: Run, pick: Pick = None, knee: Knee = False, as_json: options.Json = False) -> int:
    """Print the front of a search; with --pick or --knee mark another candidate than the chosen one.

    The schedule of the marked candidate is the last line, ready for --schedule. Limits are held against the recorded
    values: the measured latency where there is one. Exits 1 where nothing on the front keeps to --pick.
    """
    from tavt_kit.errors import BudgetError
    from tavt_kit.records import read_record
    from tavt_kit.schedule import counts_text
    from tavt_kit.verbs.front_view import print_front

    if pick and knee:
        raise BudgetError("--pick and --knee each choose a candidate; give one of them")
    file = run / "front.json" if run.is_dir() else run
    body = read_record(file, "fgvc-kit/front", 1)
    marked = _knee(body) if knee else _picked(body, pick) if pick else body.get("chosen")
    if as_json:
        print(json.dumps(body if not (pick or knee) else {"picked": _candidate(body, marked)}))
    else:
        print_front(body, place=file.parent, marked=-1 if marked is None else marked)
        if marked is not None:
            print(counts_text(body["candidates"][marked]["schedule"]))
    return 1 if pick and marked is None else 0


def _candidate(body: Mapping[str, Any], index: int | None) -> Any:
    return None if index is None else body["candidates"][index]


def _knee(body: Mapping[str, Any]) -> int:
    from tavt_kit.front import knee

    return knee([(_cost(body, one), one[body["metric"]]) for one in body["candidates"]])


def _cost(body: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """What the front is sorted by: its first objective."""
    value: Any = record
    for key in body.get("objectives", ["macs"])[0].split("."):
        value = value[key]
    return float(value)


def _picked(body: Mapping[str, Any], texts: list[str]) -> int | None:
    """The most accurate candidate within the limits; with a floor the cheapest. By rising cost both are at an end."""
    from tavt_kit.budget import Budget

    budget = Budget.parse(texts)
    fitting = [
        index
        for index, record in enumerate(body["candidates"])
        if all(limit.admits(_value(body, record, limit)) for limit in budget)
    ]
    if not fitting:
        return None
    return fitting[0] if budget.floors else fitting[-1]


def _value(body: Mapping[str, Any], record: Mapping[str, Any], limit: Any) -> float:
    """What is recorded of the limited quantity.

    Raises:
        BudgetError: Nothing is.
    """
    from tavt_kit.errors import BudgetError
    from tavt_kit.verbs.front_view import dense_of

    if limit.quantity == "flops":
        return float(record["macs"])
    if limit.quantity == "latency":
        times = record["latency_ms"] or {}
        found = times.get({"p50": "median"}.get(limit.statistic, limit.statistic), times.get("predicted"))
        if found is not None:
            return float(found)
    elif limit.quantity == body["metric"]:
        return float(record[limit.quantity])
    elif limit.quantity == "drop":
        dense = dense_of(body)
        if dense is not None:
            return float(dense[body["metric"]] - record[body["metric"]])
    raise BudgetError(f"this front does not record what {limit} limits; pick by flops, latency, top1 or drop")

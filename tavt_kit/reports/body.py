"""``report.json``: what the report says, for programs.

``verdict`` and ``sentence`` as the page has them; ``budgets``; ``target``, ``host``, ``metric`` and ``split`` of the
search; ``chosen`` (a row, or null); ``buys``: what a growing budget buys, each with the least budget that surely does
(ms, or multiply-adds without latencies) and its export command; ``rows``: every point, with the columns of
``report.csv``; ``records``: the files read, each with its schema and SHA-256. Of several runs, ``runs`` has one such
object each. What is not known is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tavt_kit.core.records import sha256_file
from tavt_kit.reports.blocks import Code, Headline, Text
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.sections.picker import buys_of, export_command, steps_of
from tavt_kit.reports.tabular import rows_of
from tavt_kit.reports.views import mapping, text

__all__ = ["report_body"]


def report_body(records: Records, headline: Headline, run: str) -> dict[str, Any]:
    """The object of one run.

    Args:
        records: Of the run.
        headline: As the page says it.
        run: What it is called.
    """
    rows = rows_of(records, run)
    front = records.first("front")
    return {
        "run": run,
        "verdict": headline.verdict or None,
        "sentence": _plain(headline.sentence),
        "notes": [_plain(one) for one in headline.more],
        "budgets": list(front.get("budgets") or ()),
        "target": dict(mapping(front, "target")) or None,
        "host": dict(mapping(front, "host")) or None,
        "metric": text(front, "metric"),
        "split": text(front, "split"),
        "chosen": next((row for row in rows if row["table"] == "front" and row["chosen"]), None),
        "buys": _buys(records),
        "rows": rows,
        "records": _records(records),
    }


def _plain(said: Text) -> str:
    parts = (part.text if isinstance(part, Code) else part for part in said.parts)
    return "".join(parts).replace("\u00a0", " ")


def _buys(records: Records) -> list[dict[str, Any]]:
    fronts = records.all("front")
    if not fronts:
        return []
    front, folder = fronts[0].body, fronts[0].path.parent
    view = FrontView.of(front)
    steps = steps_of(buys_of(front, view), cheapest=bool(view.budget.floors))
    of = f"latency_{view.statistic}_ms" if view.is_timed else "macs"
    return [
        {
            "from": step.high,
            "of": of,
            "schedule": step.view.schedule,
            "export": export_command(front, step.view, folder),
        }
        for step in steps
    ]


def _records(records: Records) -> list[dict[str, Any]]:
    files = sorted({(one.path, one.body["schema"]) for found in records.found.values() for one in found})
    return [
        {"file": str(path), "schema": schema, "sha256": sha256_file(path)}
        for path, schema in files
        if Path(path).is_file()
    ]

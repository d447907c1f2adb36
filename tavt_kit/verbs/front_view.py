"""A recorded front for people: one sentence, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tavt_kit.core.candidate import dense_of
from tavt_kit.core.configuration import Configuration


def print_front(body: Mapping[str, Any], *, place: Path, marked: int | None = None) -> None:
    """The verdict, the front and its baselines on stdout.

    Args:
        body: A ``front.json``.
        place: The run folder, for the hint at the end.
        marked: Which candidate to mark; the chosen one by default.
    """
    from rich.markup import escape
    from rich.table import Table

    from tavt_kit.reports.final import better_than_chosen
    from tavt_kit.reports.front import ablation_text, untrained_text
    from tavt_kit.verbs.console import console_of

    console = console_of(160)
    mark = body.get("chosen") if marked is None else marked
    table = Table(show_edge=False)
    first = f"{body['metric']}, % [95 %]"
    for title in ("", "schedule", "GMACs", first, *_further(body), *_times(body), "verdict", "from"):
        table.add_column(escape(title), justify="left" if title in ("", "schedule", "verdict", "from") else "right")
    shown = [str(Configuration.from_record(record)) for record in body["candidates"]]
    for index, (name, record) in enumerate(zip(shown, body["candidates"], strict=True)):
        table.add_row(*map(escape, (">" if index == mark else "", name, *_row(body, record))))
    for record in body.get("baselines", ()):
        if (name := str(Configuration.from_record(record))) not in shown:
            table.add_row("", *map(escape, (name, *_row(body, record))), style="dim")
    for record in body.get("baseline_models", ()):
        row = _row(body, {"origin": "baseline", **record})
        table.add_row("", *map(escape, (record["name"], *row)), style="dim")
    console.print(table)
    for one in body.get("baselines_left_out", ()):
        console.print(escape(f"Left out: {one['name']}, because {one['reason']}."), highlight=False)
    if late := body.get("not_measured"):
        names = ", ".join(str(Configuration.from_record(record)) for record in late)
        console.print(escape(f"No time was left to measure {len(late)} of the finalists: {names}."), highlight=False)
    if body.get("stopped_because"):
        console.print(escape(f"Stopped because {body['stopped_because']}."), highlight=False)
    console.print(escape(sentence(body)), highlight=False)
    for one in body.get("gene_ablation", ()):
        console.print(escape(ablation_text(one)), highlight=False)
    for said in (*better_than_chosen(body), untrained_text(body)):
        if said:
            console.print(escape(said), highlight=False)
    if (place / "report.html").is_file():
        console.print(escape(f"{place / 'report.html'}"), highlight=False)


def sentence(body: Mapping[str, Any]) -> str:
    """The verdict in words."""
    budgets = ", ".join(body.get("budgets", ())) or "no budget"
    chosen, verdict, text = body.get("chosen"), body.get("verdict"), ""
    if (better := body.get("recommended")) is not None:
        text = f"{verdict} ({budgets}): take {better}, a model of yours that does better than all that was found. "
        verdict = "FAIL" if chosen is None else body["candidates"][chosen]["verdict"]
    if chosen is None and verdict == "INCONCLUSIVE":
        return f"{text}{verdict}: nothing measured keeps to {budgets}, but not all was measured; give it more time."
    if chosen is None:
        return f"{text}{verdict}: no measured candidate keeps to {budgets}; raise the budget, or distill further."
    record = body["candidates"][chosen]
    dense = dense_of(body)
    text += f"{verdict} ({budgets}): {Configuration.from_record(record)} keeps {_percent(body, record)} %"
    if dense is not None:
        text += f" of val (dense {_percent(body, dense)} %)"
        fast, slow = ((one.get("latency_ms") or {}).get("median") for one in (record, dense))
        if fast and slow:
            text += f" in {fast:.3g} ms instead of {slow:.3g} ms ({slow / fast:.2f}x)"
        small, large = ((one.get("memory_bytes") or {}).get("median") for one in (record, dense))
        if small and large:
            text += f", at a peak of {_mb(small)} MB instead of {_mb(large)} MB"
        text += f", {record['macs'] / dense['macs']:.0%} of the multiply-adds"
    undecided = body.get("undecided") or ()
    return f"{text}. Not proven: {'; '.join(undecided)}." if undecided else f"{text}."


def _further(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics of a third objective."""
    return tuple(axis for axis in body.get("objectives", ())[2:] if axis not in ("macs", "memory_bytes.median"))


def _times(body: Mapping[str, Any]) -> tuple[str, ...]:
    times = ("predicted", "median, ms", "p90, ms") if body.get("target") else ()
    return (*times, "memory, MB", "most, MB") if body.get("memory") else times


def _row(body: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """What stands behind the schedule, or a baseline's name."""
    low, high = (f"{100 * end:.1f}" for end in record.get("ci95", (float("nan"),) * 2))
    times = record.get("latency_ms") or {}
    row = ["" if record["macs"] is None else f"{record['macs'] / 1e9:.3g}"]
    row.append(f"{_percent(body, record)} [{low}, {high}]" if body["metric"] in record else "not known")
    others = record.get("others", {})
    row += [f"{100 * others[name]['value']:.1f}" if name in others else "" for name in _further(body)]
    if body.get("target"):
        unsteady = "" if times.get("steady", True) else " unsteady"
        row += [_ms(times.get("predicted")), _ms(times.get("median")) + unsteady, _ms(times.get("p90"))]
    if body.get("memory"):
        known = record.get("memory_bytes") or {}
        row += [_mb(known.get("median")), _mb(known.get("most"))]
    return [*row, str(record.get("verdict") or ""), str(record.get("origin", ""))]


def _percent(body: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    return f"{100 * record.get(body['metric'], float('nan')):.1f}"


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

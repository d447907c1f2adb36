"""What several verbs print: a recorded front, checks, a pack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.candidate import dense_of
from tavt_kit.core.configuration import Configuration

if TYPE_CHECKING:
    from tavt_kit.workflows.profile import Pack


def print_front(body: Mapping[str, Any], *, folder: Path, marked: int | None = None) -> None:
    """The verdict, the front and its baselines of a ``front.json`` on stdout.

    Args:
        marked: Index of the candidate to mark; the chosen one by default.
    """
    from rich.markup import escape

    from tavt_kit.reports.baselines import better_in_front
    from tavt_kit.reports.front import ablation_text, untrained_text
    from tavt_kit.verbs.console import console_of, table_of

    console, mark = console_of(160), body.get("chosen") if marked is None else marked
    times = ("predicted", "median, ms", "p90, ms") if body.get("target") else ()
    sizes = ("memory, MB", "most, MB") if body.get("memory") else ()
    titles = ("", "schedule", "GMACs", f"{body['metric']}, % [95 %]", *_further(body), *times, *sizes)
    shown = [str(Configuration.from_record(record)) for record in body["candidates"]]
    rows = (
        (">" if index == mark else "", name, *_row(body, record))
        for index, (name, record) in enumerate(zip(shown, body["candidates"], strict=True))
    )
    table = table_of((*titles, "verdict", "from"), rows, left=("schedule", "verdict", "from"))
    others = [(str(Configuration.from_record(record)), record) for record in body.get("baselines", ())]
    others = [(name, record) for name, record in others if name not in shown]
    others += [(record["name"], {"origin": "baseline", **record}) for record in body.get("baseline_models", ())]
    for name, record in others:
        table.add_row("", *map(escape, (name, *_row(body, record))), style="dim")
    console.print(table)
    said = [f"Left out: {one['name']}, because {one['reason']}." for one in body.get("baselines_left_out", ())]
    if late := body.get("not_measured"):
        names = ", ".join(str(Configuration.from_record(record)) for record in late)
        said.append(f"No time was left to measure {len(late)} of the finalists: {names}.")
    if body.get("stopped_because"):
        said.append(f"Stopped because {body['stopped_because']}.")
    said += [sentence(body), *map(ablation_text, body.get("gene_ablation", ()))]
    said += [*(one.sentence for one in better_in_front(body)), untrained_text(body)]
    if (folder / "report.html").is_file():
        said.append(f"{folder / 'report.html'}")
    for line in filter(None, said):
        console.print(escape(line), highlight=False)


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


def _row(body: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """What stands behind the schedule, or a baseline's name."""

    def ms(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    low, high = (f"{100 * end:.1f}" for end in record.get("ci95", (float("nan"),) * 2))
    times, others, memory = (record.get(name) or {} for name in ("latency_ms", "others", "memory_bytes"))
    row = ["" if record["macs"] is None else f"{record['macs'] / 1e9:.3g}"]
    row.append(f"{_percent(body, record)} [{low}, {high}]" if body["metric"] in record else "not known")
    row += [f"{100 * others[name]['value']:.1f}" if name in others else "" for name in _further(body)]
    if body.get("target"):
        unsteady = "" if times.get("steady", True) else " unsteady"
        row += [ms(times.get("predicted")), ms(times.get("median")) + unsteady, ms(times.get("p90"))]
    if body.get("memory"):
        row += [_mb(memory.get("median")), _mb(memory.get("most"))]
    return [*row, str(record.get("verdict") or ""), str(record.get("origin", ""))]


def _percent(body: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    return f"{100 * record.get(body['metric'], float('nan')):.1f}"


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f}"


_NAMED = 3  # classes and confusions on the terminal; check.json has ten


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """A table of checks on stdout, and the sentence of each."""
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import console_of, table_of

    rows = []
    for check in checks:
        source, own = (Accuracy.from_record(check[name]) for name in ("source_top1", "artifact_top1"))
        low, high = (100 * end for end in check["difference"]["ci95"])
        dense = check["dense_top1"]
        rows.append((
            check["artifact"],
            f"{100 * source.value:.1f} %",
            f"{100 * own.value:.1f} % [{100 * own.low:.1f}, {100 * own.high:.1f}]",
            f"{100 * check['difference']['difference']:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{100 * check['agreement']:.1f} %",
            "" if dense is None else f"{100 * dense['value']:.1f} %",
            check["verdict"],
        ))  # fmt: skip
    first = checks[0]["source_top1"]
    print(f"top-1 on the {first['split']} split, n = {first['n']}, same schedule, 95 % intervals")
    console_of(140).print(table_of(("file", "source", "file's top-1", "change", "agree", "dense", "verdict"), rows))
    for check in checks:
        print(f"{check['artifact']}: {check['verdict']}: {check['reason']}")
        print(*_details(check), sep="\n")


def _details(check: Mapping[str, Any]) -> list[str]:
    """The lines under one file's sentence."""

    def change(one: Mapping[str, Any]) -> str:
        source, artifact = ("none" if one[who] is None else f"{100 * one[who]:.1f}" for who in ("source", "artifact"))
        return f"{source} -> {artifact} %"

    def named(title: str, listed: Sequence[Any], told: Sequence[str]) -> str:
        more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        return f"  {title}: {', '.join(told)}{more}"

    figures = []
    if (top5 := check["top5"]) is not None:
        figures.append(f"top-5 {change({who: top5[who]['value'] for who in ('source', 'artifact')})}")
    figures += [f"macro-F1 {change(check['macro_f1'])}", f"calibration error {change(check['calibration_error'])}"]
    figures.append(f"McNemar p {check['mcnemar_p']:.2g}")
    if check["largest_difference"] is not None:
        share = 100 * check["largest_difference"] / check["scale"]
        figures.append(f"largest logit difference {check['largest_difference']:.2g} ({share:.2g} % of the largest)")
    batches, choice = check["batches"], check.get("token_choice")
    tried = "logits made elsewhere: other batch sizes could not be tried"
    if batches["sizes"]:
        sizes = ", ".join(map(str, batches["sizes"]))
        tried = f"batches of {sizes}: {'the same answers' if batches['passed'] else 'not the same answers'}"
    if choice is not None and choice["kept"] is not None:
        tried += f"; it keeps {', '.join(map(str, choice['kept']))} patches"
    lines = [f"  {'; '.join(figures)}", f"  {tried}"]
    if hit := check["worst_hit"]:
        of = {one["class"]: one for one in check["classes"]}
        told = [f"{name} {change(of[name])} (n = {of[name]['n']})" for name in hit[:_NAMED]]
        lines.append(named("worst hit", hit, told))
    if grown := check["confusions_grown"]:
        told = [f"{one['truth']} taken for {one['said']} {one['source']} -> {one['artifact']}" for one in grown]
        lines.append(named("confusions that grew", grown, told[:_NAMED]))
    return lines


def print_pack(pack: Pack, record: str, then: str, as_json: bool) -> None:
    """Print it on stdout."""
    if as_json:
        print(json.dumps({"pack": str(pack.path), "sha256": pack.sha256, "bytes": pack.size}))
        return
    needs = f"on the device, with Python 3.11, numpy and {pack.target.runtime}"
    print(f"{pack.path}: {pack.size / 1e6:.0f} MB, SHA-256 {pack.sha256}")
    print(f"{needs}: python {pack.path.name}, which writes {record}; then here:\n{then}")

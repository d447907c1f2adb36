"""What several verbs print: a recorded front, checks, a pack."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.candidate import dense_of
from tavt_kit.core.configuration import Configuration

if TYPE_CHECKING:
    from tavt_kit.workflows.profile import Pack


def print_front(body: Mapping[str, Any], *, folder: Path, marked: int | None = None) -> None:
    """The verdict, the front and its baselines on stdout.

    Args:
        body: A ``front.json``.
        marked: Index of the candidate to mark; the chosen one by default.
    """
    from rich.markup import escape

    from tavt_kit.reports.baselines import better_in_front
    from tavt_kit.reports.front import ablation_text, untrained_text
    from tavt_kit.verbs.console import console_of, table_of

    console = console_of(160)
    mark = body.get("chosen") if marked is None else marked
    first = f"{body['metric']}, % [95 %]"
    titles = ("", "schedule", "GMACs", first, *_further(body), *_times(body), "verdict", "from")
    shown = [str(Configuration.from_record(record)) for record in body["candidates"]]
    rows = (
        (">" if index == mark else "", name, *_row(body, record))
        for index, (name, record) in enumerate(zip(shown, body["candidates"], strict=True))
    )
    table = table_of(titles, rows, left=("schedule", "verdict", "from"))
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
    for said in (*(one.sentence for one in better_in_front(body)), untrained_text(body)):
        if said:
            console.print(escape(said), highlight=False)
    if (folder / "report.html").is_file():
        console.print(escape(f"{folder / 'report.html'}"), highlight=False)


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
        for line in _details(check):
            print(line)


def _details(check: Mapping[str, Any]) -> Iterator[str]:
    """The lines under one file's sentence."""
    yield f"  {'; '.join(_figures(check))}"
    yield f"  {_batches(check['batches'])}{_choice(check.get('token_choice'))}"
    hit, grown = check["worst_hit"], check["confusions_grown"]
    if hit:
        of = {one["class"]: one for one in check["classes"]}
        told = [_class(of[name]) for name in hit[:_NAMED]]
        yield f"  worst hit: {', '.join(told)}{_more(hit)}"
    if grown:
        told = [
            f"{one['truth']} taken for {one['said']} {one['source']} -> {one['artifact']}" for one in grown[:_NAMED]
        ]
        yield f"  confusions that grew: {', '.join(told)}{_more(grown)}"


def _figures(check: Mapping[str, Any]) -> Iterator[str]:
    top5, f1, error = check["top5"], check["macro_f1"], check["calibration_error"]
    if top5 is not None:
        yield f"top-5 {_points(top5['source']['value'])} -> {_points(top5['artifact']['value'])} %"
    yield f"macro-F1 {_points(f1['source'])} -> {_points(f1['artifact'])} %"
    yield f"calibration error {_points(error['source'])} -> {_points(error['artifact'])} %"
    yield f"McNemar p {check['mcnemar_p']:.2g}"
    if check["largest_difference"] is not None:
        share = 100 * check["largest_difference"] / check["scale"]
        yield f"largest logit difference {check['largest_difference']:.2g} ({share:.2g} % of the largest)"


def _batches(batches: Mapping[str, Any]) -> str:
    if not batches["sizes"]:
        return "logits made elsewhere: other batch sizes could not be tried"
    sizes = ", ".join(map(str, batches["sizes"]))
    return f"batches of {sizes}: {'the same answers' if batches['passed'] else 'not the same answers'}"


def _choice(choice: Mapping[str, Any] | None) -> str:
    if choice is None:
        return ""
    kept = "" if choice["kept"] is None else f"; it keeps {', '.join(map(str, choice['kept']))} patches"
    return f"{kept}, of equal scores the first" if choice["ties_difference"] is not None else kept


def _class(one: Mapping[str, Any]) -> str:
    return f"{one['class']} {_points(one['source'])} -> {_points(one['artifact'])} % (n = {one['n']})"


def _more(listed: list[Any]) -> str:
    return f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""


def _points(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}"


def print_pack(pack: Pack, record: str, then: str, as_json: bool) -> None:
    """Print it on stdout."""
    if as_json:
        print(json.dumps({"pack": str(pack.path), "sha256": pack.sha256, "bytes": pack.size}))
        return
    runtime = pack.target.runtime
    print(f"{pack.path}: {pack.size / 1e6:.0f} MB, SHA-256 {pack.sha256}")
    print(
        f"on the device, with Python 3.11, numpy and {runtime}: python {pack.path.name}, which writes {record}; then "
        "here:"
    )
    print(then)

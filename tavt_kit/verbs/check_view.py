"""Checks for people: a table, and what was found beside top-1 in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAMED = 3  # classes and confusions on the terminal; check.json has ten


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """A table of checks on stdout, and the sentence of each."""
    from rich.table import Table

    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import console_of

    console = console_of(140)
    table = Table(show_edge=False)
    for name in ("file", "source", "file's top-1", "change", "agree", "dense", "verdict"):
        table.add_column(name)
    for check in checks:
        source, own = (Accuracy.from_record(check[name]) for name in ("source_top1", "artifact_top1"))
        low, high = (100 * end for end in check["difference"]["ci95"])
        dense = check["dense_top1"]
        table.add_row(
            check["artifact"],
            f"{100 * source.value:.1f} %",
            f"{100 * own.value:.1f} % \\[{100 * own.low:.1f}, {100 * own.high:.1f}]",
            f"{100 * check['difference']['difference']:+.2f} \\[{low:+.2f}, {high:+.2f}]",
            f"{100 * check['agreement']:.1f} %",
            "" if dense is None else f"{100 * dense['value']:.1f} %",
            check["verdict"],
        )
    first = checks[0]["source_top1"]
    print(f"top-1 on the {first['split']} split, n = {first['n']}, same schedule, 95 % intervals")
    console.print(table)
    for check in checks:
        print(f"{check['artifact']}: {check['verdict']}: {check['reason']}")
        for line in _details(check):
            print(line)


def _details(check: Mapping[str, Any]) -> Iterator[str]:
    """The lines under one file's sentence.

    Args:
        check: Its record in ``check.json``.
    """
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
        yield f"top-5 {_percent(top5['source']['value'])} -> {_percent(top5['artifact']['value'])} %"
    yield f"macro-F1 {_percent(f1['source'])} -> {_percent(f1['artifact'])} %"
    yield f"calibration error {_percent(error['source'])} -> {_percent(error['artifact'])} %"
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
    return f"{one['class']} {_percent(one['source'])} -> {_percent(one['artifact'])} % (n = {one['n']})"


def _more(listed: list[Any]) -> str:
    return f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}"

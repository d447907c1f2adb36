"""An evaluation's record, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["say_evaluation", "threshold_words"]

_WIDEST, _NAMED = 12, 5
"""Classes up to which the whole matrix is printed, and confusions that are named; the files have all of it."""


def say_evaluation(record: Mapping[str, Any]) -> None:
    """Print the figures, the classes and the confusions."""
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import console_of

    print(f"{record['thing']} under {record['schedule']}: top-1 {Accuracy.from_record(record['top1'])}")
    names = {"top5": "top-5", "macro_f1": "macro-F1"}
    for key, words in names.items():
        if record.get(key) is not None:
            print(f"{words} {Accuracy.from_record(record[key])}")
    calibration = record["calibration"]
    print(f"calibration error {100 * calibration['error']:.1f} % (in {calibration['count']} bins)")
    if record["skipped"]:
        print(f"{record['skipped']} pictures could not be read and were skipped")
    console_of().print(_classes(record))
    for line in _confusions(record):
        print(line)
    if record["reject"] is not None:
        print(_reject(record["reject"]))
    if record["heads"] is not None:
        console_of().print(_heads(record["heads"]))
        print(_official(record["heads"]["official"]))


def _classes(record: Mapping[str, Any]) -> Table:
    """Every class beside the matrix where that fits, else those with the worst recall."""
    from rich.markup import escape
    from rich.table import Table

    classes = record["classes"]
    wide = len(classes) <= _WIDEST
    places = range(len(classes)) if wide else _worst(record)
    title = "rows: truth; columns: prediction" if wide else f"the {len(places)} classes of {len(classes)} found least"
    table = Table(title=title)
    table.add_column("class")
    table.add_column("recall, % [95 %]", justify="right", no_wrap=True)
    table.add_column("prec.", justify="right", no_wrap=True)
    for i in range(len(classes)) if wide else ():
        table.add_column(str(i), justify="right", no_wrap=True)
    for i in places:
        name, row = classes[i], record["confusion"][i]
        precision = record["precision"].get(name)
        cells = _share(record["recall"].get(name), "no picture"), _percent(precision) if precision else "-"
        table.add_row(escape(f"{i} {name}"), *map(escape, cells), *(map(str, row) if wide else ()))
    return table


def _worst(record: Mapping[str, Any]) -> list[int]:
    recall = record["recall"]
    known = [i for i, name in enumerate(record["classes"]) if name in recall]
    return sorted(known, key=lambda i: float(recall[record["classes"][i]]["value"]))[:10]


def _share(accuracy: Mapping[str, Any] | None, none: str) -> str:
    if accuracy is None:
        return none
    low, high = accuracy["ci95"]
    return f"{_percent(accuracy)} [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(accuracy: Mapping[str, Any]) -> str:
    return f"{100 * accuracy['value']:.1f}"


def _confusions(record: Mapping[str, Any]) -> Iterator[str]:
    listed = record["confusions"]
    if listed:
        yield "taken for one another most often:"
    for one in listed[:_NAMED]:
        files = ", ".join(example["file"] for example in one["examples"])
        yield f"  {one['truth']} taken for {one['said']}: {one['count']} of {one['n']} ({files})"


def threshold_words(reject: Mapping[str, Any]) -> str:
    """How a threshold was chosen."""
    chosen = reject["chosen_on"]
    return (
        f"for a precision of {100 * reject['wanted']:g} % answers of at least {100 * reject['threshold']:.1f} % are "
        f"accepted (chosen on {chosen['split']}: {chosen['right']} right of {chosen['accepted']} accepted, of "
        f"{chosen['n']})"
    )


def _reject(reject: Mapping[str, Any]) -> str:
    from tavt_kit.core.accuracy import Accuracy

    coverage = Accuracy.from_record(reject["coverage"])
    start = f"{threshold_words(reject)}; it accepts {coverage}"
    if reject["precision"] is None:
        return start
    return f"{start}, and of these is right {Accuracy.from_record(reject['precision'])}"


def _heads(heads: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(
        title="PIM's heads, %; highest-k adds up k of them: the surest, or as the official code the least sure"
    )
    titles = ("head", "top-1", "top-3", "official top-1", "top-3", "selected tokens right", "dropped")
    for title in titles:
        table.add_column(title, justify="left" if title == "head" else "right")
    for name, one in heads["heads"].items():
        tokens = (heads["tokens"].get(f"{which}_{name}") for which in ("select", "drop"))
        shares = ("" if share is None else f"{100 * share:.1f}" for share in tokens)
        table.add_row(name, _percent(one["top1"]), _percent(one["top3"]), "", "", *shares)
    for name, one in heads["fused"].items():
        official = heads["fused_official"][name]
        table.add_row(name, *(_percent(each[top]) for each in (one, official) for top in ("top1", "top3")))
    return table


def _official(best: Mapping[str, Any]) -> str:
    from tavt_kit.core.accuracy import Accuracy

    accuracy = Accuracy.from_record(best["top1"])
    return (
        f"the official code reports the best of its names, here {best['name']}: {accuracy}; a choice made on that split"
    )

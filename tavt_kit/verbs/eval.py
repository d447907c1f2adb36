"""``fgvc-kit eval``: what a run or an exported file has right, class by class, and how sure it is of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tavt_kit.verbs import options
from tavt_kit.verbs.settings import read_settings

if TYPE_CHECKING:
    from rich.table import Table


def eval_verb(
    thing: options.Thing,
    settings: options.Settings = None,
    as_json: options.Json = False,
    config: options.Config = None,
) -> int:
    """--dense is short for --schedule dense."""
    from tavt_kit.evaluation.record import EVAL_FILE
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.evaluate import evaluate

    with ConsoleProgress() as progress:
        found = evaluate(thing, progress=progress, **read_settings("eval", settings))
    if as_json:
        print(json.dumps(found.record))
        return 0
    _say(found.record)
    if found.folder is not None:
        beside = ", ".join(file["file"] for file in found.record["files"])
        print(f"{found.folder / EVAL_FILE}, and beside it {beside}")
    return 0


_WIDEST, _NAMED = 12, 5
"""Classes up to which the whole matrix is printed, and confusions that are named; the files have all of it."""


def _say(record: Mapping[str, Any]) -> None:
    """Print the figures, the classes and the confusions."""
    from tavt_kit.core.accuracy import Accuracy
    from tavt_kit.verbs.console import console_of

    print(f"{record['thing']} under {record['schedule']}: top-1 {Accuracy.from_record(record['top1'])}")
    for key, words in (("top5", "top-5"), ("macro_f1", "macro-F1")):
        if record.get(key) is not None:
            print(f"{words} {Accuracy.from_record(record[key])}")
    calibration = record["calibration"]
    print(f"calibration error {100 * calibration['error']:.1f} % (in {calibration['count']} bins)")
    if record["skipped"]:
        print(f"{record['skipped']} images could not be read and were skipped")
    console_of().print(_classes(record))
    if record["confusions"]:
        print("taken for one another most often:")
    for confusion in record["confusions"][:_NAMED]:
        files = ", ".join(example["file"] for example in confusion["examples"])
        print(
            f"  {confusion['truth']} taken for {confusion['said']}: {confusion['count']} of {confusion['n']} ({files})"
        )
    if (reject := record["reject"]) is not None:
        chosen, right = reject["chosen_on"], reject["precision"]
        print(
            f"for a precision of {100 * reject['wanted']:g} % answers of at least {100 * reject['threshold']:.1f} % "
            f"are accepted (chosen on {chosen['split']}: {chosen['right']} right of {chosen['accepted']} accepted, of "
            f"{chosen['n']}); it accepts {Accuracy.from_record(reject['coverage'])}"
            + ("" if right is None else f", and of these is right {Accuracy.from_record(right)}")
        )
    if (heads := record["heads"]) is not None:
        console_of().print(_heads(heads))
        best = heads["official"]
        print(
            f"the official code reports the best of its names, here {best['name']}: "
            f"{Accuracy.from_record(best['top1'])}; a choice made on that split"
        )


def _classes(record: Mapping[str, Any]) -> Table:
    """Every class beside the matrix where that fits, else those with the worst recall."""
    from tavt_kit.verbs.console import table_of

    classes, recall = record["classes"], record["recall"]
    wide = len(classes) <= _WIDEST
    known = [i for i, name in enumerate(classes) if name in recall]
    worst = sorted(known, key=lambda i: float(recall[classes[i]]["value"]))[:10]
    title = "rows: truth; columns: prediction" if wide else f"the {len(worst)} classes of {len(classes)} found least"
    rows = []
    for i in range(len(classes)) if wide else worst:
        found, precision = recall.get(classes[i]), record["precision"].get(classes[i])
        ends = "" if found is None else " [{:.1f}, {:.1f}]".format(*(100 * end for end in found["ci95"]))
        share = "no image" if found is None else f"{_percent(found)}{ends}"
        counts = map(str, record["confusion"][i]) if wide else ()
        rows.append((f"{i} {classes[i]}", share, _percent(precision) if precision else "-", *counts))
    columns = map(str, range(len(classes) if wide else 0))
    return table_of(("class", "recall, % [95 %]", "prec.", *columns), rows, title=title)


def _percent(accuracy: Mapping[str, Any]) -> str:
    return f"{100 * accuracy['value']:.1f}"


def _heads(heads: Mapping[str, Any]) -> Table:
    from tavt_kit.verbs.console import table_of

    rows = []
    for name, one in heads["heads"].items():
        tokens = (heads["tokens"].get(f"{which}_{name}") for which in ("select", "drop"))
        shares = ("" if share is None else f"{100 * share:.1f}" for share in tokens)
        rows.append((name, _percent(one["top1"]), _percent(one["top3"]), "", "", *shares))
    for name, one in heads["fused"].items():
        both = (one, heads["fused_official"][name])
        rows.append((name, *(_percent(each[top]) for each in both for top in ("top1", "top3"))))
    titles = ("head", "top-1", "top-3", "official top-1", "top-3", "selected tokens right", "dropped")
    title = "PIM's heads, %; highest-k adds up k of them: the surest, or as the official code the least sure"
    return table_of(titles, rows, title=title)

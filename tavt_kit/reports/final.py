"""The closing table ``final.json``, and every baseline that answers what was asked better than the choice.

Each model of ``final.json`` saw the same held-out images and was measured in one bench. A row has ``name``; ``kind``
(one of ``KINDS``); ``split``, ``top1``, ``n``, ``ci95``; ``macs``; ``latency_ms`` (a measurement without its samples);
``ratio`` (dense time over this time); ``verdict`` and ``note``. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Cell, Section, Table, Text
from tavt_kit.reports.candidates import (
    AGAINST_DENSE,
    MACS,
    MEDIAN,
    P90,
    SPEED,
    VERDICT,
    CandidateView,
    Estimate,
    FrontView,
    accuracy_column,
    points_of,
    ratio_of,
    recorded_budget,
)
from tavt_kit.reports.records import Records, mapping, number, objects, sequence, text, whole

FINAL_FILE = "final.json"


def final_rows(final: Mapping[str, Any]) -> tuple[CandidateView, ...]:
    """The rows of ``final.json``; none of an empty record."""
    metric = text(final, "metric") or "top1"
    return tuple(CandidateView.of(record, metric) for record in objects(final, "rows"))


class Better(NamedTuple):
    """A baseline that answers what was asked better than the choice does, and the sentence that says so."""

    row: CandidateView
    sentence: str


def better_rows(final: Mapping[str, Any]) -> list[Better]:
    """Each baseline that answers what was asked better than the choice does.

    That is one as accurate and as fast; and, where the search was for the most accurate model within a budget, one that
    is more accurate and keeps to the same budget. By the plain figures; where intervals overlap it says so.
    """
    rows = [(row, *figures) for row in final_rows(final) if (figures := _figures(row))]
    by_accuracy, ours = not recorded_budget(final).floors, ("chosen", "chosen-int8", "front")
    found: list[Better] = []
    for kind, name in (("chosen", "the chosen model"), ("chosen-int8", "the chosen model in INT8")):
        for chosen, right, least, shown in [one for one in rows if one[0].kind == kind][:1]:
            for row, accuracy, cost, told in rows:
                # A quantised choice is compared with the quantised baseline; the others with the f32 choice.
                is_asked = row.kind not in ours if kind == "chosen" else row.kind == "int8"
                if not is_asked or row.split != chosen.split or row.time.is_known != chosen.time.is_known:
                    continue
                is_better = by_accuracy and row.verdict == "PASS" and accuracy.value > right.value
                if is_better or (accuracy.value >= right.value and cost <= least):
                    sure = accuracy.low is not None and accuracy.low > right.value
                    doubt = "" if sure else "; the accuracies are within each other's intervals"
                    within = " and keeps to the budget" if cost > least else ""
                    sentence = (
                        f"A baseline does better here: {row.name} scores {accuracy} at {told}{within}, {name} {right} "
                        f"at {shown} on the {row.split} split{doubt}."
                    )
                    found.append(Better(row, sentence))
    return found


def _figures(row: CandidateView) -> tuple[Estimate, float, str] | None:
    """The accuracy, and the median time (multiply-adds where nothing was timed), also as text; None if not known."""
    cost, told = row.time.median, words.ms_text(row.time.median)
    if not row.time.is_known:
        cost, told = row.macs, f"{words.macs_text(row.macs)} multiply-adds"
    return None if row.accuracy is None or cost is None else (row.accuracy, cost, told)


def better_in_front(front: Mapping[str, Any]) -> list[Better]:
    """Each baseline of ``front.json`` that answers what was asked better than the chosen candidate."""
    view = FrontView.of(front)
    if view.pick is None or front.get("chosen") != view.chosen:
        return []
    pick = {**view.pick.record, "name": "chosen", "kind": "chosen", "split": text(front, "split")}
    rows = [pick, *sequence(front, "baseline_models")]
    return better_rows({"metric": view.metric, "budgets": sequence(front, "budgets"), "rows": rows})


def closing_table(records: Records) -> Mapping[str, Any]:
    """``final.json``, or the rows of ``fit.json`` in its form: judged on val, what test says in the notes."""
    fit = records.first("fit")
    if not fit:
        return records.first("final")
    recommended, rows = whole(fit, "recommended"), objects(fit, "rows")
    dense, found = number(rows, 0, "latency_ms", "median"), []
    for index, row in enumerate(rows):
        size, precision = mapping(row, "configuration").get("image_size"), text(row, "configuration", "precision")
        plain = "front" if row.get("kind") == "ours" else "resolution" if size else "int8" if precision else "dense"
        test, median = number(row, "test", "top1"), number(row, "latency_ms", "median")
        notes = ("recommended" if index == recommended else "", f"test {words.percent_text(test)}" if test else "")
        own = {
            "split": "val",
            "kind": "chosen" if index == recommended else plain,
            "ratio": dense / median if dense and median else None,
            "note": ", ".join(filter(None, notes)),
        }
        found.append({**row, **mapping(row, "val"), **own})
    return {**fit, "metric": "top1", "rows": found}


def final_section(records: Records) -> Section | None:
    """The table of ``final.json``, or of ``fit.json``; None where there is neither."""
    final = closing_table(records)
    rows = final_rows(final)
    if not rows:
        return None
    splits, where = sorted({row.split for row in rows if row.split}), words.target_words(mapping(final, "target"))
    split = splits[0] if len(splits) == 1 else ""
    counts = {row.accuracy.n for row in rows if row.accuracy is not None}
    n = f" ({words.n_text(counts.pop() or 0)})" if len(counts) == 1 and None not in counts else ""
    on = f"on the {split} split" if split else "on the splits named"
    caption = f"Accuracy {on}{n}{f', measured on {where}' if where else ''}."
    blocks: list[Block] = [_models_table(rows, caption, text(final, "metric") or "top1", split)]
    if not better_rows(final) and any(row.kind == "chosen" for row in rows):
        blocks.append(Text.of("No baseline answers the request better than the chosen model.", kind="note"))
    gist = f"{words.plural(len(rows), 'model')} side by side, baselines among them"
    return Section("final", "Against the baselines", tuple(blocks), gist)


def _models_table(rows: Sequence[CandidateView], caption: str, metric: str, split: str) -> Table:
    """Models that are not all schedules of one network; their splits are named where there are several."""
    return Table.of(
        rows,
        caption,
        ("Model", lambda row: Cell(row.name or "?", ", ".join(filter(None, (row.note, "" if split else row.split))))),
        accuracy_column(metric, split),
        (AGAINST_DENSE, lambda row: points_of(row.difference)),
        MACS,
        MEDIAN,
        P90,
        (SPEED, lambda row: Cell(ratio_of(row.ratio), row.ratio.span if row.ratio else "")),
        VERDICT,
        strong=(index for index, row in enumerate(rows) if row.kind in ("chosen", "chosen-int8")),
    )


def baseline_blocks(view: FrontView) -> list[Block]:
    """The baselines that are no schedules, and why some are not among them; nothing where none was asked for."""
    blocks: list[Block] = []
    if view.models:
        caption = "Other ways to the same budget, measured among the finalists of the search."
        blocks.append(_models_table(view.models, caption, view.metric, view.split))
    for one in sequence(view.record, "baselines_left_out"):
        blocks.append(Text.of(f"Left out: {text(one, 'name')}, because {text(one, 'reason')}.", kind="note"))
    return blocks

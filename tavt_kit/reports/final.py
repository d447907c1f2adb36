"""The closing table ``final.json``, and every baseline that answers what was asked better than the choice.

Each model of ``final.json`` saw the same held-out images and was measured in one bench. A row has ``name``; ``kind``
(one of ``KINDS``); ``split``, ``top1``, ``n``, ``ci95``; ``macs``; ``latency_ms`` (a measurement without its samples);
``ratio`` (dense time over this time); ``verdict`` and ``note``. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Cell, Column, Section, Table, Text
from tavt_kit.reports.candidates import (
    AGAINST_DENSE,
    MACS,
    MEDIAN,
    P90,
    VERDICT,
    CandidateView,
    FrontView,
    accuracy_column,
    points_of,
    ratio_cell,
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


def better_baselines(final: Mapping[str, Any]) -> list[str]:
    """A sentence for each baseline that answers what was asked better than the choice does.

    That is one as accurate and as fast; and, where the search was for the most accurate model within a budget, one that
    is more accurate and keeps to the same budget. By the plain figures; where intervals overlap it says so.
    """
    return [one.sentence for one in better_rows(final)]


def better_rows(final: Mapping[str, Any]) -> Iterator[Better]:
    """Those baselines; see ``better_baselines``."""
    rows, by_accuracy = final_rows(final), not recorded_budget(final).floors
    for kind, ours in (("chosen", "the chosen model"), ("chosen-int8", "the chosen model in INT8")):
        chosen = next((row for row in rows if row.kind == kind and _is_complete(row)), None)
        # A quantised choice is compared with the quantised baseline; the others were compared with the f32 choice.
        own = ("chosen", "chosen-int8", "front")
        for row in rows if chosen is not None else ():
            is_asked = row.kind not in own if kind == "chosen" else row.kind == "int8"
            if chosen and is_asked and row.split == chosen.split and _beats(row, chosen, by_accuracy):
                yield Better(row, _sentence(row, chosen, ours))


def _is_complete(row: CandidateView) -> bool:
    return row.accuracy is not None and _cost(row)[0] is not None


def _cost(row: CandidateView) -> tuple[float | None, str]:
    """The median time, or the multiply-adds where nothing was timed; and as text."""
    if row.time is None:
        return row.macs, f"{words.macs_text(row.macs)} multiply-adds"
    return row.time.median, words.ms_text(row.time.median)


def _beats(row: CandidateView, chosen: CandidateView, by_accuracy: bool) -> bool:
    if not _is_complete(row) or (row.time is None) != (chosen.time is None):
        return False
    (cost, _), (ours, _) = _cost(row), _cost(chosen)
    assert row.accuracy and chosen.accuracy and cost is not None and ours is not None
    if row.accuracy.value >= chosen.accuracy.value and cost <= ours:
        return True
    return by_accuracy and row.verdict == "PASS" and row.accuracy.value > chosen.accuracy.value


def _sentence(row: CandidateView, chosen: CandidateView, ours: str) -> str:
    (cost, told), (least, least_told) = _cost(row), _cost(chosen)
    assert row.accuracy and chosen.accuracy and cost is not None and least is not None
    sure = row.accuracy.low is not None and row.accuracy.low > chosen.accuracy.value
    doubt = "" if sure else "; the accuracies are within each other's intervals"
    within = " and keeps to the budget" if cost > least else ""
    return (
        f"A baseline does better here: {row.name} scores {row.accuracy} at {told}{within}, {ours} "
        f"{chosen.accuracy} at {least_told} on the {row.split} split{doubt}."
    )


def better_than_chosen(front: Mapping[str, Any]) -> list[str]:
    """A sentence for each baseline in ``front.json`` that answers what was asked better than the chosen candidate."""
    return [one.sentence for one in better_in_front(front)]


def better_in_front(front: Mapping[str, Any]) -> list[Better]:
    """Those baselines; see ``better_than_chosen``."""
    view = FrontView.of(front)
    if view.pick is None or front.get("chosen") != view.chosen:
        return []
    pick = {**view.pick.record, "name": "chosen", "kind": "chosen", "split": text(front, "split")}
    rows = [pick, *sequence(front, "baseline_models")]
    return list(better_rows({"metric": view.metric, "budgets": sequence(front, "budgets"), "rows": rows}))


def closing_table(records: Records) -> Mapping[str, Any]:
    """``final.json``, or the rows of ``fit.json`` in its form: judged on val, what test says in the notes."""
    fit = records.first("fit")
    if not fit:
        return records.first("final")
    recommended, rows = whole(fit, "recommended"), objects(fit, "rows")
    dense = number(rows[0], "latency_ms", "median") if rows else None
    found = []
    for index, row in enumerate(rows):
        size, precision = mapping(row, "configuration").get("image_size"), text(row, "configuration", "precision")
        plain = "front" if row.get("kind") == "ours" else "resolution" if size else "int8" if precision else "dense"
        test, median = number(row, "test", "top1"), number(row, "latency_ms", "median")
        notes = ("recommended" if index == recommended else "", f"test {words.percent_text(test)}" if test else "")
        found.append(
            {
                **row,
                **mapping(row, "val"),
                "split": "val",
                "kind": "chosen" if index == recommended else plain,
                "ratio": dense / median if dense and median else None,
                "note": ", ".join(filter(None, notes)),
            }
        )
    return {**fit, "metric": "top1", "rows": found}


def final_section(records: Records) -> Section | None:
    """The table of ``final.json``, or of ``fit.json``; None where there is neither."""
    final = closing_table(records)
    rows = final_rows(final)
    if not rows:
        return None
    metric = text(final, "metric") or "top1"
    splits = sorted({row.split for row in rows if row.split})
    blocks: list[Block] = [_table(rows, metric, splits, words.target_words(mapping(final, "target")))]
    if not better_baselines(final) and any(row.kind == "chosen" for row in rows):
        blocks.append(Text.of("No baseline answers the request better than the chosen model.", kind="note"))
    gist = f"{words.plural(len(rows), 'model')} side by side, baselines among them"
    return Section("final", "Against the baselines", tuple(blocks), gist)


def _table(rows: Sequence[CandidateView], metric: str, splits: Sequence[str], where: str) -> Table:
    split = splits[0] if len(splits) == 1 else ""
    on = f"on the {split} split" if split else "on the splits named"
    counts = {row.accuracy.n for row in rows if row.accuracy is not None}
    n = f" ({words.n_text(counts.pop() or 0)})" if len(counts) == 1 and None not in counts else ""
    caption = f"Accuracy {on}{n}{f', measured on {where}' if where else ''}."
    return _models_table(rows, caption, metric, split)


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
        (Column("Speed", hint="dense = 1"), lambda row: ratio_cell(row.ratio)),
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

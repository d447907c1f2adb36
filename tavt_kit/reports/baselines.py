"""What stands beside the choice: the table of a fit, the baselines of a search, and which of them do better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tavt_kit.core.budget import Budget
from tavt_kit.reports import columns, words
from tavt_kit.reports.blocks import Block, Cell, Rule, Section, Table, Text
from tavt_kit.reports.candidates import CandidateView, Estimate, FrontView, recorded_budget
from tavt_kit.reports.records import Records, mapping, number, objects, sequence, text, whole


class Better(NamedTuple):
    """A baseline that answers what was asked better than the choice does, and the sentence that says so."""

    row: CandidateView
    sentence: str


def better_rows(rows: Sequence[CandidateView], budget: Budget) -> list[Better]:
    """Each baseline that answers what was asked better than the row of kind ``chosen`` does.

    That is one as accurate and as fast; and, where the search was for the most accurate model within a budget, one that
    is more accurate and keeps to the same budget. By the plain figures; where intervals overlap it says so.
    """
    chosen = next((row for row in rows if row.kind == "chosen"), None)
    if chosen is None or (ours := _figures(chosen)) is None:
        return []
    (right, least, shown), better = ours, list[Better]()
    for row in rows:
        figures = None if row.kind in ("chosen", "front") else _figures(row)
        if figures is None or row.split != chosen.split or row.time.is_known != chosen.time.is_known:
            continue
        accuracy, cost, cost_words = figures
        is_better = not budget.floors and row.verdict == "PASS" and accuracy.value > right.value
        if is_better or (accuracy.value >= right.value and cost <= least):
            sure = accuracy.low is not None and accuracy.low > right.value
            doubt = "" if sure else "; the accuracies are within each other's intervals"
            within = " and keeps to the budget" if cost > least else ""
            sentence = (
                f"A baseline does better here: {row.name} scores {accuracy} at {cost_words}{within}, the chosen "
                f"model {right} at {shown} on the {row.split} split{doubt}."
            )
            better.append(Better(row, sentence))
    return better


def _figures(row: CandidateView) -> tuple[Estimate, float, str] | None:
    """The accuracy, and the median time (multiply-adds where nothing was timed), also as text; None if not known."""
    cost, shown = row.time.median, words.ms_text(row.time.median)
    if not row.time.is_known:
        cost, shown = row.macs, f"{words.macs_text(row.macs)} multiply-adds"
    return None if row.accuracy is None or cost is None else (row.accuracy, cost, shown)


def better_in_front(front: Mapping[str, Any]) -> list[Better]:
    """Each baseline of ``front.json`` that answers what was asked better than the chosen candidate."""
    view = FrontView(front)
    if view.pick is None or front.get("chosen") != view.chosen:
        return []
    pick = CandidateView({**view.pick.record, "kind": "chosen", "split": view.split}, view.metric)
    return better_rows([pick, *view.models], view.budget)


def fit_rows(fit: Mapping[str, Any]) -> tuple[CandidateView, ...]:
    """The rows of ``fit.json``, judged on val; what test says stands in the notes."""
    recommended, rows = whole(fit, "recommended"), objects(fit, "rows")
    dense, views = number(rows, 0, "latency_ms", "median"), []
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
        views.append(CandidateView({**row, **mapping(row, "val"), **own}, "top1"))
    return tuple(views)


def fit_section(records: Records) -> Section | None:
    """The table of ``fit.json``; None where there is none."""
    fit = records.first("fit")
    rows, where = fit_rows(fit), words.target_words(mapping(fit, "target"))
    if not rows:
        return None
    counts = {row.accuracy.n for row in rows if row.accuracy is not None}
    n = f" ({words.n_text(counts.pop() or 0)})" if len(counts) == 1 and None not in counts else ""
    caption = f"Accuracy on the val split{n}{f', measured on {where}' if where else ''}."
    blocks: list[Block] = [_models_table(rows, caption, "top1", "val")]
    if not better_rows(rows, recorded_budget(fit)) and any(row.kind == "chosen" for row in rows):
        blocks.append(Text.of("No baseline answers the request better than the chosen model.", kind="note"))
    if searched := text(fit, "search", "said"):
        blocks.append(Text.of(searched))
    gist = f"{words.plural(len(rows), 'model')} side by side, baselines among them"
    return Section("final", "Against the baselines", tuple(blocks), gist)


def _models_table(rows: Sequence[CandidateView], caption: str, metric: str, split: str) -> Table:
    """Models that are not all schedules of one network."""
    strong = (index for index, row in enumerate(rows) if row.kind == "chosen")
    name: Rule[CandidateView] = "Model", lambda row: Cell(row.name or "?", row.note)
    return Table.of(rows, caption, name, *columns.of_models(metric, split), strong=strong)


def baseline_blocks(view: FrontView) -> list[Block]:
    """The baselines that are no schedules, and why some are not among them; nothing where none was asked for."""
    blocks: list[Block] = []
    if view.models:
        caption = "Other ways to the same budget, measured among the finalists of the search."
        blocks.append(_models_table(view.models, caption, view.metric, view.split))
    for left in sequence(view.record, "baselines_left_out"):
        blocks.append(Text.of(f"Left out: {text(left, 'name')}, because {text(left, 'reason')}.", kind="note"))
    return blocks

"""``final.json``, the closing table: each model on the same held-out images and measured in one bench.

Written by the verb that compares (``demo``), read by the report. Each row: ``name``; ``kind`` (``dense``, ``int8``,
``resolution``, ``layers``, ``taper``, ``chosen``, ``chosen-int8``, ``other``); ``split``, ``top1``, ``n``, ``ci95``;
``macs``; ``latency_ms`` (a measurement's record without its raw samples); ``ratio`` (dense time over this time; a
number, or an object with ``value``, ``low``, ``high``); ``verdict`` and ``note``. What is not known is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.core.records import write_record
from tavt_kit.errors import BudgetError
from tavt_kit.reports.blocks import (
    AGAINST_DENSE,
    MACS,
    MEDIAN,
    P90,
    SPEED,
    VERDICT,
    Block,
    Cell,
    Column,
    Figure,
    Missing,
    Section,
    Table,
    Text,
    word_columns,
)
from tavt_kit.reports.candidates import AccuracyView, TimeView, accuracy_cell, time_cells, verdict_cell
from tavt_kit.reports.charts import KINDS, Frame, Kind, Mark, front_chart, front_legend
from tavt_kit.reports.records import Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import macs_text, metric_words, ms_text, n_text, points_text, ratio_text, target_words

__all__ = [
    "FINAL_FILE", "FinalRow", "FinalView", "baseline_blocks", "baseline_rows", "better_baselines",
    "better_than_chosen", "final_mark", "final_rows", "final_section", "write_final",
]  # fmt: skip


FINAL_FILE = "final.json"


@dataclass(frozen=True, slots=True)
class FinalRow:
    """One model of the closing table.

    Args:
        name: For people: ``"dense, INT8"``.
        kind: Which baseline it is.
        accuracy: Record of an ``Accuracy`` (metric, split, value, n, ci95), or ``None``.
        macs: Multiply-adds of one image, rule ``executed``.
        latency: Record of a ``Measurement``, or ``None``; its raw samples stay in ``bench.json``.
        ratio: Record of the paired ratio dense over this, a number, or ``None``.
        verdict: Over the budget, or ``None``.
        note: A few words, such as the image size or the schedule.
    """

    name: str
    kind: Kind
    accuracy: Mapping[str, Any] | None = None
    macs: int | None = None
    latency: Mapping[str, Any] | None = None
    ratio: Mapping[str, Any] | float | None = None
    verdict: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a final row is one of {', '.join(KINDS)}, got {self.kind!r}")

    def as_record(self) -> dict[str, Any]:
        """The row as ``final.json`` has it."""
        accuracy, latency = self.accuracy or {}, self.latency
        return {
            "name": self.name,
            "kind": self.kind,
            "split": accuracy.get("split"),
            accuracy.get("metric", "top1"): accuracy.get("value"),
            "n": accuracy.get("n"),
            "ci95": accuracy.get("ci95"),
            "macs": self.macs,
            "latency_ms": None if latency is None else _without_samples(latency),
            "ratio": self.ratio if self.ratio is None or isinstance(self.ratio, int | float) else dict(self.ratio),
            "verdict": self.verdict,
            "note": self.note,
        }


def write_final(
    folder: Path,
    rows: Sequence[FinalRow],
    *,
    target: Mapping[str, Any],
    budgets: Sequence[str] = (),
    metric: str = "top1",
    host: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``final.json`` into ``folder`` and give its path.

    Args:
        folder: The run's.
        rows: In the order to be shown; dense first.
        target: Record of the target device all rows were measured on.
        budgets: Their texts.
        metric: The accuracy's name.
        host: Record of the host facts.
    """
    path = Path(folder) / FINAL_FILE
    body = {
        "metric": metric,
        "target": dict(target),
        "budgets": list(budgets),
        "host": None if host is None else dict(host),
    }
    write_record(path, "final", {**body, "rows": [row.as_record() for row in rows]})
    return path


def _without_samples(latency: Mapping[str, Any]) -> dict[str, Any]:
    samples = latency.get("samples")
    kept = {name: value for name, value in latency.items() if name not in ("samples", "rounds")}
    return {**kept, "samples": len(samples) if isinstance(samples, list | tuple) else samples}


_COMPARED = ("dense", "resolution", "layers", "taper", "stages", "other", "int8")


@dataclass(frozen=True, slots=True)
class FinalView:
    """One model of ``final.json``."""

    name: str
    kind: Kind
    split: str
    accuracy: AccuracyView | None
    macs: float | None
    time: TimeView | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    verdict: str
    note: str


def final_rows(final: Mapping[str, Any]) -> tuple[FinalView, ...]:
    """The rows of ``final.json``; none of an empty record."""
    metric = text(final, "metric") or "top1"
    return tuple(_read_row(record, metric) for record in sequence(final, "rows") if isinstance(record, Mapping))


def _read_row(record: Mapping[str, Any], metric: str) -> FinalView:
    ratio = number(record, "ratio")
    return FinalView(
        name=text(record, "name") or "?",
        kind=_kind(text(record, "kind")),
        split=text(record, "split") or "",
        accuracy=AccuracyView.of(record, metric),
        macs=number(record, "macs"),
        time=TimeView.of(mapping(record, "latency_ms")),
        ratio=number(record, "ratio", "value") if ratio is None else ratio,
        ratio_low=number(record, "ratio", "low"),
        ratio_high=number(record, "ratio", "high"),
        verdict=text(record, "verdict") or "",
        note=text(record, "note") or "",
    )


def _kind(name: str | None) -> Kind:
    return next((kind for kind in KINDS if kind == name), "other")


def better_baselines(final: Mapping[str, Any]) -> list[str]:
    """A sentence for each baseline that answers what was asked better than the choice does.

    That is one as accurate and as fast; and, where the search was for the most accurate model within a budget, one that
    is more accurate and keeps to the same budget. By the plain figures; where intervals overlap it says so.

    Args:
        final: The record of ``final.json``.
    """
    rows, sentences = final_rows(final), []
    by_accuracy = not _has_floor(final)
    for kind, ours in (("chosen", "the chosen model"), ("chosen-int8", "the chosen model in INT8")):
        chosen = next((row for row in rows if row.kind == kind and _is_complete(row)), None)
        if chosen is None:
            continue
        # A quantised choice is compared with the quantised baseline; the others were compared with the f32 choice.
        baselines = _COMPARED if kind == "chosen" else ("int8",)
        sentences += [
            _sentence(row, chosen, ours)
            for row in rows
            if row.kind in baselines and row.split == chosen.split and _beats(row, chosen, by_accuracy)
        ]
    return sentences


def _has_floor(final: Mapping[str, Any]) -> bool:
    """Whether the cheapest model above a floor was asked for, not the best below a ceiling."""
    try:
        return bool(Budget.parse([str(limit) for limit in sequence(final, "budgets")]).floors)
    except BudgetError:
        return False


def _is_complete(row: FinalView) -> bool:
    return row.accuracy is not None and _cost(row)[0] is not None


def _cost(row: FinalView) -> tuple[float | None, str]:
    """The median time, or the multiply-adds where nothing was timed; and as text."""
    if row.time is None:
        return row.macs, f"{macs_text(row.macs)} multiply-adds"
    return row.time.median, ms_text(row.time.median)


def _beats(row: FinalView, chosen: FinalView, by_accuracy: bool) -> bool:
    if not _is_complete(row) or (row.time is None) != (chosen.time is None):
        return False
    (cost, _), (ours, _) = _cost(row), _cost(chosen)
    assert row.accuracy and chosen.accuracy and cost is not None and ours is not None
    if row.accuracy.value >= chosen.accuracy.value and cost <= ours:
        return True
    return by_accuracy and row.verdict == "PASS" and row.accuracy.value > chosen.accuracy.value


def _sentence(row: FinalView, chosen: FinalView, ours: str) -> str:
    (cost, told), (least, least_told) = _cost(row), _cost(chosen)
    assert row.accuracy and chosen.accuracy and cost is not None and least is not None
    sure = row.accuracy.low is not None and row.accuracy.low > chosen.accuracy.value
    doubt = "" if sure else "; the accuracies are within each other's intervals"
    within = " and keeps to the budget" if cost > least else ""
    return (
        f"A baseline does better here: {row.name} scores {row.accuracy} at {told}{within}, {ours} "
        f"{chosen.accuracy} at {least_told} on the {row.split} split{doubt}."
    )


def baseline_rows(front: Mapping[str, Any]) -> tuple[FinalView, ...]:
    """The baselines in ``front.json`` that are no schedules, one row for each, in the order recorded."""
    return final_rows({"metric": text(front, "metric"), "rows": sequence(front, "baseline_models")})


def better_than_chosen(front: Mapping[str, Any]) -> list[str]:
    """A sentence for each that answers what was asked better than the chosen candidate does."""
    chosen = whole(front, "chosen")
    candidates = sequence(front, "candidates")
    if chosen is None or not 0 <= chosen < len(candidates):
        return []
    pick = {**mapping(candidates[chosen]), "name": "chosen", "kind": "chosen", "split": text(front, "split")}
    rows = [pick, *sequence(front, "baseline_models")]
    return better_baselines({"metric": text(front, "metric"), "budgets": sequence(front, "budgets"), "rows": rows})


def final_section(records: Records) -> Section | Missing:
    """The table of ``final.json``."""
    final = records.first("final")
    rows = final_rows(final)
    if not rows:
        return Missing("The choice against its baselines, on held-out images", "fgvc-kit demo")
    metric = metric_words(text(final, "metric") or "top1")
    splits = sorted({row.split for row in rows if row.split})
    blocks: list[Block] = []
    marks = [mark for row in rows if (mark := final_mark(row))]
    if len(marks) > 1 and len(splits) == 1:
        blocks.append(_figure(marks, metric, splits[0]))
    blocks.append(_table(rows, metric, splits, target_words(mapping(final, "target"))))
    if not better_baselines(final) and any(row.kind == "chosen" for row in rows):
        blocks.append(Text.of("No baseline answers the request better than the chosen model.", kind="note"))
    return Section("final", "Against the baselines", tuple(blocks))


def final_mark(row: FinalView, timed: bool = True, statistic: str = "p90") -> Mark | None:
    """The row as a point of a chart; ``None`` where its accuracy or cost is not known.

    Args:
        row: Row of the closing table, or a baseline of the front.
        timed: Whether it stands at its latency, else at its multiply-adds.
        statistic: Quantile that the bar of the latency ends at.
    """
    accuracy, time = row.accuracy, row.time if timed else None
    x = time.median if time else None if timed or row.macs is None else row.macs / 1e9
    if accuracy is None or x is None:
        return None
    interval = f" (95 % {accuracy.interval})" if accuracy.interval else ""
    lines = (row.name, f"{accuracy}{interval}", *(row.time.lines if row.time else ()), row.note)
    x_bar = time.span(statistic) if time else None
    return Mark(row.kind, row.name, x, 100 * accuracy.value, x_bar, accuracy.bar, lines=tuple(filter(None, lines)))


def _figure(marks: Sequence[Mark], metric: str, split: str) -> Figure:
    frame = Frame(x_title="latency, ms", y_title=f"{metric} on {split}, %")
    name = f"{metric} on {split} against median latency"
    # No staircase: these models are not one search's front.
    return Figure(
        name,
        front_chart(marks, frame, name),
        "Marks stand at the median, their bars run from p10 to p90; upright bars are the 95 % interval.",
        front_legend(marks),
    )


def _table(rows: Sequence[FinalView], metric: str, splits: Sequence[str], where: str) -> Table:
    split = splits[0] if len(splits) == 1 else ""
    on = f"on the {split} split" if split else "on the splits named"
    counts = {row.accuracy.n for row in rows if row.accuracy is not None}
    n = f" ({n_text(counts.pop() or 0)})" if len(counts) == 1 and None not in counts else ""
    measured = f", measured on {where}" if where else ""
    strong = frozenset(index for index, row in enumerate(rows) if row.kind in ("chosen", "chosen-int8"))
    columns = (*word_columns("Model"), Column(metric, hint="95 %"), MACS, MEDIAN, P90, SPEED, VERDICT)
    return Table(columns, tuple(_row(row, split) for row in rows), f"Accuracy {on}{n}{measured}.", strong)


def _row(row: FinalView, split: str) -> tuple[Cell, ...]:
    small = ", ".join(part for part in (row.note, row.split if not split else "") if part)
    known = row.ratio_low is not None and row.ratio_high is not None
    return (
        Cell(row.name, small),
        accuracy_cell(row.accuracy),
        Cell(macs_text(row.macs)),
        *time_cells(row.time),
        Cell(ratio_text(row.ratio), f"{row.ratio_low:.2f}–{row.ratio_high:.2f}" if known else ""),
        verdict_cell(row.verdict),
    )


def baseline_blocks(front: Mapping[str, Any]) -> list[Block]:
    """The table, and why some are not in it; nothing where none was asked for."""
    blocks: list[Block] = []
    rows = baseline_rows(front)
    if rows:
        differences = [number(record, "against_dense", "difference") for record in sequence(front, "baseline_models")]
        accuracy = Column(metric_words(text(front, "metric") or "top1"), hint=f"{text(front, 'split') or 'val'}, 95 %")
        speed = Column("Speed", hint="dense = 1, paired")
        columns = (*word_columns("Baseline"), MACS, accuracy, AGAINST_DENSE, MEDIAN, P90, speed, VERDICT)
        cells = tuple(
            (
                Cell(row.name, row.note),
                Cell(macs_text(row.macs)),
                accuracy_cell(row.accuracy),
                Cell(points_text(difference)),
                *time_cells(row.time),
                Cell(ratio_text(row.ratio)),
                verdict_cell(row.verdict),
            )
            for row, difference in zip(rows, differences, strict=True)
        )
        caption = "Other ways to the same budget, measured among the finalists of the search."
        blocks.append(Table(columns, cells, caption))
    for one in sequence(front, "baselines_left_out"):
        blocks.append(Text.of(f"Left out: {text(one, 'name')}, because {text(one, 'reason')}.", kind="note"))
    return blocks

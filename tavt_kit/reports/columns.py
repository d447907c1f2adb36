"""The columns and cells that several tables share."""

from __future__ import annotations

from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Cell, Column, Rule
from tavt_kit.reports.candidates import CandidateView, Estimate, FrontView, points_of, ratio_of
from tavt_kit.reports.records import mapping


def accuracy(estimate: Estimate | None) -> Cell:
    """An accuracy above its interval."""
    return Cell(words.DASH) if estimate is None else Cell(str(estimate), estimate.interval)


def recorded_accuracy(record: Any, *path: str | int) -> Cell:
    """The cell of the accuracy at ``path``."""
    return accuracy(Estimate.of(mapping(record, *path)))


def difference(estimate: Estimate | None) -> Cell:
    """A paired difference in points above its interval."""
    return Cell(points_of(estimate), estimate.points if estimate else "")


def recorded_difference(record: Any) -> Cell:
    """The cell of the ``difference`` of a record."""
    return difference(Estimate.of(mapping(record, "difference"), "difference"))


def verdict(word: str | None) -> Cell:
    """A verdict as a badge."""
    return Cell(word or words.DASH, badge=bool(word))


MACS: Rule[CandidateView] = Column("MACs", hint="of one image"), lambda row: words.macs_text(row.macs)
MEDIAN: Rule[CandidateView] = Column("Median", hint="95 %"), lambda row: Cell(str(row.time), row.time.doubt)
P90: Rule[CandidateView] = Column("p90"), lambda row: Cell(words.ms_text(row.time.p90), row.time.doubt_of("p90"))


def of_models(metric: str, split: str, view: FrontView | None = None) -> list[Rule[CandidateView]]:
    """What is known of models beside one another, of a search's against its dense model; blank columns are left out."""

    def macs(row: CandidateView) -> Cell:
        dense = view.dense.macs if view and view.dense else None
        share = f"{words.percent_text(row.macs / dense, 0)} of dense" if row.macs and dense else ""
        return Cell(words.macs_text(row.macs), share)

    def speed(row: CandidateView) -> Cell:
        if row.ratio is not None or view is None:
            return Cell(ratio_of(row.ratio), row.ratio.span if row.ratio else "")
        return Cell(words.ratio_text(view.speedup(row)))

    return [
        (MACS[0], macs),
        (Column(words.metric_words(metric), hint=f"{split}, 95 %"), lambda row: accuracy(row.accuracy)),
        (Column("Against dense", hint="points, paired"), lambda row: difference(row.difference)),
        (Column("Predicted"), lambda row: words.ms_text(row.time.predicted)),
        MEDIAN,
        P90,
        (Column("Speed", hint="dense = 1"), speed),
        ("Verdict", lambda row: verdict(row.verdict)),
        ("Origin", lambda row: row.origin or words.DASH),
    ]

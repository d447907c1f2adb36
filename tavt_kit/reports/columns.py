"""The columns and cells that several tables share."""

from __future__ import annotations

from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Cell, Column, Rule
from tavt_kit.reports.candidates import CandidateView, Estimate, points_of
from tavt_kit.reports.records import mapping


def accuracy(one: Estimate | None) -> Cell:
    """An accuracy above its interval."""
    return Cell(words.DASH) if one is None else Cell(str(one), one.interval)


def recorded_accuracy(record: Any, *path: str | int) -> Cell:
    """The cell of the accuracy at ``path``."""
    return accuracy(Estimate.of(mapping(record, *path)))


def difference(one: Estimate | None) -> Cell:
    """A paired difference in points above its interval."""
    return Cell(points_of(one), one.points if one else "")


def verdict(word: str | None) -> Cell:
    """A verdict as a badge."""
    return Cell(word or words.DASH, badge=bool(word))


def accuracy_column(metric: str, split: str = "") -> Rule[CandidateView]:
    """The column of accuracies; the split is named where the caption does not."""
    head = Column(words.metric_words(metric), hint=f"{split}, 95 %" if split else "95 %")
    return head, lambda one: accuracy(one.accuracy)


MACS: Rule[CandidateView] = Column("MACs", hint="of one image"), lambda one: words.macs_text(one.macs)
AGAINST_DENSE = Column("Against dense", hint="points, paired")
SPEED = Column("Speed", hint="dense = 1")
MEDIAN: Rule[CandidateView] = Column("Median", hint="95 %"), lambda one: Cell(str(one.time), one.time.doubt)
P90: Rule[CandidateView] = Column("p90"), lambda one: words.ms_text(one.time.p90)
VERDICT: Rule[CandidateView] = "Verdict", lambda one: verdict(one.verdict)

"""report: one HTML file with its CSV and JSON twins, from the records of runs; and show: what one record holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.parsing import several
from tavt_kit.core.records import read_record
from tavt_kit.errors import BudgetError
from tavt_kit.evaluation.frames import Frame, frame
from tavt_kit.workflows.run_model import FIT_FILE
from tavt_kit.workflows.schedules import best_within, knee_of


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReportResult:
    """A report that was written: the page, its candidates as a table, and ``report.json``."""

    html: Path
    csv: Path
    json: Path
    record: Mapping[str, Any]

    def to_frame(self) -> Frame:
        """One line a candidate, with the columns of the CSV file."""
        return frame(self.record["rows"])

    def __repr__(self) -> str:
        return f"<report: {self.html}>"


def report(runs: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> ReportResult:
    """Write ``report.html``, ``report.csv`` and ``report.json`` from the records of runs.

    No model is loaded and nothing is measured. What was not recorded is named, with the command that records it.

    Args:
        runs: Run folders and single records, of one search at most.
        out: The folder to write; by default the first run's.

    Raises:
        RecordError: There is nothing to report on, a record is damaged, or there are several searches.
        OutputError: The folder cannot be written.

    Example:
        >>> report("runs/birds-8ms").html  # doctest: +SKIP
    """
    from tavt_kit.reports import write_report

    folders = [Path(run) for run in several(runs)]
    written = write_report(folders, None if out is None else Path(out))
    return ReportResult(*written, json.loads(written.json.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Shown:
    """A ``front`` or ``fit`` that was read, and the index of the marked candidate of a front, if there is any."""

    kind: str
    folder: Path
    record: Mapping[str, Any]
    marked: int | None = None

    @property
    def candidate(self) -> Mapping[str, Any] | None:
        """The record of the marked candidate."""
        return None if self.marked is None else self.record["candidates"][self.marked]


def show(run: str | Path, *, pick: str | Sequence[str] = (), knee: bool = False) -> Shown:
    """Show the front of a search or the rows of a fit.

    ``pick`` and ``knee`` mark another candidate than the chosen one. Limits are held against the recorded values: the
    measured latency where there is one.

    Args:
        run: Run folder of ``search`` or ``fit``, or its ``front.json``.
        pick: The best within these limits, such as ``latency=8ms``, ``flops=3G`` or ``top1=80%``.
        knee: Whether to mark the candidate after which spending more buys little.

    Raises:
        BudgetError: A limit that cannot be read, or on what is not recorded; or both are given.
        RecordError: There is no front.
    """
    run, picks = Path(run), several(pick)
    if picks and knee:
        raise BudgetError("`pick` and `knee` each choose a candidate; give one of them")
    if (run / FIT_FILE).is_file():
        return Shown("fit", run, read_record(run / FIT_FILE, "fit"))
    file = run / "front.json" if run.is_dir() else run
    body = read_record(file, "front")
    marked = knee_of(body) if knee else best_within(body, picks) if picks else body.get("chosen")
    return Shown("front", file.parent, body, marked)

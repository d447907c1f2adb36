"""report: one HTML file with its CSV and JSON twins, from the records of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.parsing import several
from tavt_kit.evaluation.frames import Frame, frame


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


def report(
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
) -> ReportResult:
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

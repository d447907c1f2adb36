"""From records to a report: which sections there are, and the two files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tavt_kit.core.budget import Budget
from tavt_kit.core.records import atomic_text, label_record, make_folder
from tavt_kit.reports.asked import asked
from tavt_kit.reports.blocks import Code, Download, Facts, Missing, Report, Section, Text
from tavt_kit.reports.body import report_body
from tavt_kit.reports.compared import RunRecords, runs_of
from tavt_kit.reports.gather import Records, gather
from tavt_kit.reports.pages import html_page, markdown_page
from tavt_kit.reports.sections.benches import benches_section
from tavt_kit.reports.sections.checks import checks_section
from tavt_kit.reports.sections.classes import classes_section
from tavt_kit.reports.sections.convergence import convergence_section
from tavt_kit.reports.sections.evaluated import evaluated_section
from tavt_kit.reports.sections.explained import explained_section
from tavt_kit.reports.sections.final import final_section
from tavt_kit.reports.sections.front import front_section
from tavt_kit.reports.sections.kept import kept_section
from tavt_kit.reports.sections.ladder import ladder_section
from tavt_kit.reports.sections.layers import layers_section
from tavt_kit.reports.sections.learning import learning_section
from tavt_kit.reports.sections.provenance import card_of, provenance_section, summary
from tavt_kit.reports.sections.reproduction import reproduction_section
from tavt_kit.reports.sections.side_by_side import compared_report
from tavt_kit.reports.sections.verdict import headline
from tavt_kit.reports.tabular import csv_text
from tavt_kit.reports.views import text

__all__ = ["CSV_FILE", "HTML_FILE", "JSON_FILE", "MARKDOWN_FILE", "Written", "build_report", "write_report"]

HTML_FILE, MARKDOWN_FILE, CSV_FILE, JSON_FILE = "report.html", "report.md", "report.csv", "report.json"

_SECTIONS: tuple[Callable[[Records], Section | Missing | None], ...] = (
    front_section,
    final_section,
    checks_section,
    evaluated_section,
    classes_section,
    convergence_section,
    ladder_section,
    learning_section,
    layers_section,
    benches_section,
    kept_section,
    explained_section,
)


def build_report(records: Records) -> Report:
    """What the records say, in the order a reader asks."""
    name = text(card_of(records), "name")
    data = text(records.first("split"), "name")
    title = " on ".join(part for part in (name, data) if part) or "A run without a model card"
    found = [section(records) for section in _SECTIONS]
    missing = [one for one in found if isinstance(one, Missing)]
    sections = [one for one in found if isinstance(one, Section)]
    if missing:
        sections.append(_not_recorded(missing))
    return Report(
        title,
        summary(records),
        headline(records),
        (*sections, provenance_section(records), reproduction_section(records)),
        f"Made by fgvc-kit report from {', '.join(records.folders) or 'records'}.",
    )


def _not_recorded(missing: Sequence[Missing]) -> Section:
    """All that is not there in one place, so that a short report stays short."""
    rows = tuple((one.what, Code(one.command)) for one in missing)
    return Section("missing", "Not recorded", (Text.of("Each of these is made by the command beside it."), Facts(rows)))


class Written(NamedTuple):
    """The files of a report."""

    html: Path
    markdown: Path
    csv: Path
    json: Path


def write_report(
    places: Sequence[Path], out: Path | None = None, budget: Budget | None = None, *, across: bool = False
) -> Written:
    """Read the records at ``places`` and write the report's four files into the folder ``out``.

    Args:
        places: Run folders and single records; several searches are set side by side.
        out: The folder; by default the first place, of several searches ``report``.
        budget: Choose again for this one, from what was measured, instead of the search's own.
        across: Whether searches on different machines or targets may be set side by side.

    Raises:
        RecordError: There is nothing to report on, a record is damaged, or the runs cannot be compared.
        BudgetError: The budget limits what is not recorded.
        OutputError: The folder cannot be written.
    """
    records = gather(places)
    if len(records.all("front")) > 1:
        report, body = _several(runs_of(records, across=across), budget)
        rows = [row for one in body["runs"] for row in one["rows"]]
    else:
        report, body = _single(records, budget)
        rows = body["rows"]
    table = csv_text(rows)
    record = json.dumps(label_record("report", body), indent=1, ensure_ascii=False)
    if out is None:
        first = Path(places[0])
        out = Path("report") if "runs" in body else first if first.is_dir() else first.parent
    folder = make_folder(Path(out))
    written = Written(folder / HTML_FILE, folder / MARKDOWN_FILE, folder / CSV_FILE, folder / JSON_FILE)
    downloads = (Download(CSV_FILE, "text/csv", table), Download(JSON_FILE, "application/json", record))
    atomic_text(written.html, html_page(report, downloads))
    atomic_text(written.markdown, markdown_page(report))
    atomic_text(written.csv, table)
    atomic_text(written.json, record + "\n")
    return written


def _single(records: Records, budget: Budget | None) -> tuple[Report, dict[str, Any]]:
    """The page and the body of ``report.json``."""
    if budget is not None:
        records = asked(records, budget)
    report = build_report(records)
    return report, report_body(records, report.headline, report.title)


def _several(runs: Sequence[RunRecords], budget: Budget | None) -> tuple[Report, dict[str, Any]]:
    if budget is not None:
        runs = [RunRecords(run.name, asked(run.records, budget)) for run in runs]
    return compared_report(runs), {"runs": [report_body(run.records, headline(run.records), run.name) for run in runs]}

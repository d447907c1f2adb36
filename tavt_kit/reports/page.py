"""From records to a report: which sections there are, and the two files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tavt_kit.records import atomic_text, make_folder
from tavt_kit.reports.blocks import Code, Facts, Missing, Report, Section, Text
from tavt_kit.reports.gather import Records, gather
from tavt_kit.reports.html import html_page
from tavt_kit.reports.markdown import markdown_page
from tavt_kit.reports.sections.benches import benches_section
from tavt_kit.reports.sections.checks import checks_section
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
from tavt_kit.reports.sections.verdict import headline
from tavt_kit.reports.views import text

__all__ = ["HTML_FILE", "MARKDOWN_FILE", "build_report", "write_report"]

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"

_SECTIONS: tuple[Callable[[Records], Section | Missing | None], ...] = (
    front_section,
    convergence_section,
    final_section,
    checks_section,
    evaluated_section,
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
        (*sections, provenance_section(records)),
        f"Made by fgvc-kit report from {', '.join(records.folders) or 'records'}.",
    )


def _not_recorded(missing: Sequence[Missing]) -> Section:
    """All that is not there in one place, so that a short report stays short."""
    rows = tuple((one.what, Code(one.command)) for one in missing)
    return Section("missing", "Not recorded", (Text.of("Each of these is made by the command beside it."), Facts(rows)))


def write_report(places: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """Read the records at ``places`` and write ``report.html`` and ``report.md`` into the folder ``out``.

    Returns:
        The two paths.

    Raises:
        RecordError: There is nothing to report on, or a record is damaged.
        OutputError: The folder cannot be written.
    """
    report = build_report(gather(places))
    folder = make_folder(Path(out))
    page, note = folder / HTML_FILE, folder / MARKDOWN_FILE
    atomic_text(page, html_page(report))
    atomic_text(note, markdown_page(report))
    return page, note

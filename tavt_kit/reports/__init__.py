"""Reports: records in, one HTML file and its Markdown, CSV and JSON twins out; nothing is loaded or measured here."""

from __future__ import annotations

from tavt_kit.reports.page import CSV_FILE, HTML_FILE, JSON_FILE, MARKDOWN_FILE, Written, write_report

__all__ = [
    "CSV_FILE", "HTML_FILE", "JSON_FILE", "MARKDOWN_FILE", "Written",
    "write_report",
]  # fmt: skip

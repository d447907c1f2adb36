"""Reports: records in, one HTML file and its Markdown twin out; no model is loaded, nothing is measured here."""

from __future__ import annotations

from tavt_kit.reports.final import FINAL_FILE, FinalRow, write_final
from tavt_kit.reports.page import HTML_FILE, MARKDOWN_FILE, write_report

__all__ = ["FINAL_FILE", "HTML_FILE", "MARKDOWN_FILE", "FinalRow", "write_final", "write_report"]

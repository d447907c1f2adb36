"""Reports: records in, one HTML file and its Markdown, CSV and JSON twins out; nothing is loaded or measured here."""

from __future__ import annotations

from tavt_kit.reports.page import Written, write_report
from tavt_kit.reports.plot import Plot, plot

__all__ = ["Plot", "Written", "plot", "write_report"]

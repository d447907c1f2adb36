"""Reports: records in, one HTML file and its CSV and JSON twins out; nothing is loaded or measured here."""

from __future__ import annotations

from tavt_kit.reports.page import Plot, Written, plot, write_report

__all__ = ["Plot", "Written", "plot", "write_report"]

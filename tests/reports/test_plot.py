"""The report's chart on its own, for a notebook."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from tavt_kit.errors import RecordError
from tavt_kit.reports import plot
from tests.reports.records import write_run


def test_a_notebook_draws_what_the_report_does(tmp_path: Path) -> None:
    drawn = plot(write_run(tmp_path).folder)
    shown = drawn._repr_html_()
    assert shown.startswith('<iframe title="top-1 on val') and shown.count("<svg") == 0  # its page is a value
    page = unescape(shown.split('srcdoc="')[1].split('" style')[0])
    assert page == drawn.page == drawn.save(tmp_path / "chart.html").read_text()
    assert 'class="limit"' in page and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert len(repr(drawn)) < 120


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path).folder
    for name in ("front.json", "fit.json"):
        (run / name).unlink(missing_ok=True)
    with pytest.raises(RecordError, match="nothing to draw"):
        plot(run)

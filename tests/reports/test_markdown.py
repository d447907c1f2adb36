from __future__ import annotations

import re
from pathlib import Path

import pytest

from tavt_kit.reports import write_report
from tavt_kit.reports.blocks import Answer, Cell, Code, Column, Report, Section, Table, Text, markdown_page
from tests.reports.pages import Page
from tests.reports.records import write_run


def page(*blocks: Text | Table) -> str:
    sections = (Section("a", "A", blocks),)
    answer = Answer("PASS", "ship", Text.of("fits"))
    return markdown_page(Report("t", "s", answer, None, (("Decide", sections),), "end"))


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "[x](javascript:alert(1))", "a | b", "*b* _c_ `d`", "# e"]
)
def test_text_of_records_is_no_markdown(text: str) -> None:
    found = page(Text.of(text))
    assert "<script" not in found
    (line,) = re.findall(r"### A\n\n(.*)\n", found)
    assert re.search(r"(?<!\\)[*_`|#\[]", line) is None
    assert re.sub(r"\\(.)", r"\1", line).replace("&lt;", "<").replace("&gt;", ">") == text


def test_code_keeps_backticks_and_pipes() -> None:
    assert "``a`b``" in page(Text.of(Code("a`b"))).replace("`` a", "``a").replace("b ``", "b``")
    table = Table((Column("c", numeric=False),), ((Cell("x|y", code=True),),), "caption")
    assert "| `x\\|y` |" in page(table)


def test_a_table_keeps_its_columns_whatever_the_cells_say() -> None:
    table = Table(
        (Column("a|b"), Column("c")), ((Cell("1|2\n3", "small|er"), Cell("x")),), "cap", strong=frozenset({0})
    )
    rows = [line for line in page(table).splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert "**1\\|2 3 (small\\|er)**" in rows[2]


def test_markdown_says_what_the_page_says(tmp_path: Path) -> None:
    run = write_run(tmp_path, classes=("crack", "good"))
    html, markdown, *_ = write_report([run.folder], tmp_path / "out")
    plain = " ".join(re.sub(r"[\\*`|]|&\w+;", "", markdown.read_text(encoding="utf-8")).replace("\u00a0", " ").split())
    text = " ".join(Page(html.read_text(encoding="utf-8")).texts).replace("\u00a0", " ")
    for number in set(re.findall(r"\d+\.\d+ (?:%|ms|G)", text)):
        assert number in plain, number

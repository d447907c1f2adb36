from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tavt_kit.reports import write_report
from tests.reports.pages import Page
from tests.reports.records import HOSTILE, write_run


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a run whose class, host and licence names try to be markup."""
    run = write_run(tmp_path_factory.mktemp("run"))
    return write_report([run.folder], run.folder / "out")[0]


@pytest.fixture(scope="module")
def page(page_path: Path) -> Page:
    return Page(page_path.read_text(encoding="utf-8"))


def test_tags_are_balanced_and_ids_are_unique(page: Page) -> None:
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    targets = [link[1:] for link in page.attributes("href") if link.startswith("#")]
    named = page.attributes("aria-labelledby")
    assert named and targets and {*targets, *named} <= set(ids)


def test_no_request_leaves_the_file(page_path: Path, page: Page) -> None:
    text = page_path.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']?\s*(?:https?:)?//""", text, re.I)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page.raw["style"] + page.raw["script"])
    links = [link for name in ("src", "href", "srcset", "action") for link in page.attributes(name)]
    assert all(link.startswith(("#", "data:image/", "data:text/csv;", "data:application/json;")) for link in links)


def test_names_cannot_become_markup(page: Page) -> None:
    assert page.count("script") == 1 and page.count("style") == 1 and page.count("img") == 0
    assert page.count("i") == page.count("b") == 0
    handlers = [name for _, values in page.tags for name in values if name.startswith("on")]
    assert not handlers
    for name in HOSTILE[:2]:
        assert name in page.text
    assert "\u202e" not in page.text


def test_the_policy_allows_our_own_style_and_script_only(page: Page) -> None:
    (policy,) = [v["content"] for tag, v in page.tags if v.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_the_answer_stands_first_and_all_else_is_folded_in_the_order_a_reader_asks(page: Page) -> None:
    tags = [(tag, values.get("id", "")) for tag, values in page.tags]
    order = (
        ("section", "answer"), ("h2", "decide"), ("details", "front"), ("h2", "understand"),
        ("h2", "trust"), ("details", "exported"), ("h2", "reproduce"), ("details", "reproduction"),
    )  # fmt: skip
    places = [tags.index(one) for one in order]
    assert places == sorted(places)
    before = tags[: places[1]]
    assert "table" not in {tag for tag, _ in before} and sum(tag == "svg" for tag, _ in before) > 2
    assert not [values for tag, values in page.tags if tag == "details" and "open" in values]


def test_it_stays_small(page_path: Path) -> None:
    assert page_path.stat().st_size < 250_000


def test_charts_and_tables_are_named(page: Page) -> None:
    for tag, values in page.tags:
        if tag == "svg":
            assert values.get("aria-label") or values.get("aria-hidden") == "true"
        if tag == "table":
            assert values["aria-label"].replace("\u00a0", " ") in page.text
    assert page.count("summary") == page.count("details") and page.count("table") == 8
    assert "Licences and attributions." in page.text


def test_the_same_records_give_the_same_bytes(page_path: Path, tmp_path: Path) -> None:
    again = write_report([page_path.parent.parent], tmp_path)[0]
    strip = re.compile(r"Made by fgvc-kit report from[^<]*")
    first, second = (strip.sub("", path.read_text(encoding="utf-8")) for path in (page_path, again))
    assert first == second


def test_reports_load_no_model() -> None:
    code = (
        "import sys, tavt_kit.reports, tavt_kit.verbs.reporting, tavt_kit.workflows.report\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'openvino', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr

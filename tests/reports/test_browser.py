from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tavt_kit.reports import write_report
from tests.reports.browser import Tab, browser, find_browser
from tests.reports.records import HOSTILE, write_fit, write_pruned, write_run
from tests.reports.test_looked_at import write_eval

pytestmark = pytest.mark.slow

OPEN = "document.querySelectorAll('details').forEach((it) => { it.open = true; })"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"))
    return write_report([run.folder], run.folder)[0]


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium on this machine")
    with browser(path) as found:
        yield found


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_and_nobody_complains(tab: Tab, report: Path, width: int, dark: bool) -> None:
    tab.open(report, width, dark=dark)
    assert tab.complaints() == []
    assert tab.requests() == [report.resolve().as_uri()]
    assert tab.run("document.documentElement.scrollHeight") < (2600 if width > 1000 else 3400)
    for _ in ("closed", "open"):
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(WIDER) == []
        assert tab.run(CONTRAST) == []
        assert tab.run(EMPTY) == []
        tab.run(OPEN)
    assert tab.run("[...document.images].every(it => it.complete)")


def test_the_answer_is_on_the_first_screen(tab: Tab, report: Path) -> None:
    tab.open(report, 1280, 800)
    ends = "[...document.querySelectorAll('#lead, .figures, .take')].map((it) => it.getBoundingClientRect().bottom)"
    assert max(tab.run(ends)) < 500
    assert tab.run("document.querySelector('.front-chart').getBoundingClientRect().top") < 560
    tab.open(report, 390, 800)
    assert tab.run("document.querySelector('.figures').getBoundingClientRect().top") < 450
    assert tab.run("getComputedStyle(document.querySelector('.front-chart.wide')).display") == "none"
    assert tab.run("getComputedStyle(document.querySelector('.front-chart.narrow')).display") == "block"
    sizes = """[...document.querySelectorAll(".front-chart.narrow text")].map((it) =>
      parseFloat(getComputedStyle(it).fontSize) * it.ownerSVGElement.getBoundingClientRect().width / 470)"""
    assert min(tab.run(sizes)) > 10


KINDS = ("bench.json", "check.json", "run.json", "profile.json", "prune.json", "fit.json", "eval/eval.json", ".")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [390, 1280])
def test_every_kind_of_record_has_a_page_that_fits(
    tab: Tab, report: Path, tmp_path: Path, kind: str, width: int
) -> None:
    folder = write_run(tmp_path / "run", classes=("a", "b", "c", "d")).folder
    write_fit(folder)
    write_pruned(folder)
    write_eval(folder / "eval")
    page = write_report([folder / kind], tmp_path / "out").html
    tab.open(page, width)
    assert tab.run("document.getElementById('lead').innerText")
    assert tab.run("document.querySelectorAll('details[open], .front-chart').length") >= 1
    for _ in ("closed", "open"):
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.run(WIDER) == [] and tab.run(CONTRAST) == [] and tab.run(EMPTY) == []
        tab.run(OPEN)
    assert tab.complaints() == []


def test_hostile_names_are_text(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    assert tab.run("document.scripts.length") == 1
    assert tab.run("document.images.length") == 0
    assert tab.run("document.querySelectorAll('[onerror],[onclick],[onload]').length") == 0
    for name in HOSTILE[:2]:
        assert tab.run(f"document.body.textContent.includes({name!r})")


def test_the_policy_blocks_what_is_not_ours(tab: Tab, report: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    text = report.read_text(encoding="utf-8")
    bad.write_text(text.replace("</main>", "<script>document.title='owned'</script></main>", 1), encoding="utf-8")
    tab.open(bad, 1280)
    assert tab.run("document.title") != "owned"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints())


def test_hovering_a_point_tells_its_numbers_and_lights_its_row(tab: Tab, report: Path) -> None:
    tab.open(report, 1280, 1400)
    tab.run("document.getElementById('front').open = true; document.querySelector('.front-chart').scrollIntoView()")
    box = "document.querySelector('[data-key=c3] .target').getBoundingClientRect()"
    tab.move(tab.run(f"{box}.x + {box}.width / 2"), tab.run(f"{box}.y + {box}.height / 2"))
    tip = "document.querySelector('.tip')"
    assert not tab.run(f"{tip}.hidden")
    assert "65x3,52x3,39x3,28x3" in tab.run(f"{tip}.innerText")
    assert tab.run("document.querySelector('tr[data-key=c3]').classList.contains('lit')")
    tab.move(2, 2)
    assert tab.run(f"{tip}.hidden")
    assert tab.complaints() == []


def test_points_are_reached_by_key(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    for _ in range(40):
        tab.press("Tab")
        if tab.run("document.activeElement.matches('.point')"):
            break
    else:
        pytest.fail("no point was reached in 40 steps")
    assert not tab.run("document.querySelector('.tip').hidden")
    tab.press("Escape")
    assert tab.run("document.querySelector('.tip').hidden")


CONTRAST = """
(() => {
  const light = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = (t) => t.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = (it) => { for (; it; it = it.parentElement) { const c = getComputedStyle(it).backgroundColor;
    const v = parse(c); if (v.length === 3 || v[3] === 1) return v; } return [255, 255, 255]; };
  const bad = new Set();
  for (const it of document.querySelectorAll("body *:not(script):not(style)")) {
    if (!it.checkVisibility() || ![...it.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(it);
    const ink = parse(it instanceof SVGElement ? style.fill : style.color);
    const a = lum(ink), b = lum(ground(it));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.add(`${it.tagName}.${it.getAttribute("class")} ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()
"""
"""Visible elements whose text has less than 4.5 to 1 against its ground."""

WIDER = """
[...document.querySelectorAll("table, figure, svg.chart, code, dl")].filter((it) => it.checkVisibility())
  .filter((it) => {
    const card = it.closest("section").getBoundingClientRect(), box = it.getBoundingClientRect();
    return box.right > card.right || it.tagName !== "CODE" && it.scrollWidth > it.clientWidth + 1;
  }).map((it) => `${it.tagName} ${it.getAttribute("aria-label") ?? it.textContent.slice(0, 40)}`)
"""
"""What sticks out of its card."""

EMPTY = """
[...document.querySelectorAll("svg.chart")]
  .filter((it) => !it.querySelector(".mark, .curve, .seen, [class^=bar-]") || it.querySelectorAll(".tick").length < 3)
  .map((it) => it.getAttribute("aria-label"))
"""
"""Charts that show nothing, or have no axis."""


def saved(folder: Path, name: str) -> str:
    for _ in range(100):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
        time.sleep(0.05)
    pytest.fail(f"{name} was not saved; there is {[path.name for path in folder.iterdir()]}")


def test_buttons_save_csv_json_and_svg(tab: Tab, report: Path, tmp_path: Path) -> None:
    tab.open(report, 1280)
    tab.saves_into(tmp_path)
    tab.click("a[download='report.csv']")
    assert saved(tmp_path, "report.csv") == report.with_name("report.csv").read_text(encoding="utf-8")
    tab.click("a[download='report.json']")
    assert json.loads(saved(tmp_path, "report.json")) == json.loads(report.with_name("report.json").read_text())
    tab.click(".tools button")
    name = tab.run("document.querySelector('svg.chart').getAttribute('aria-label')").lower()
    assert name == "top-1 on val, % against p90 latency, ms"
    svg = saved(tmp_path, f"{'-'.join(re.findall('[a-z0-9]+', name))}.svg")
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width") == "1040"
    assert "--accent" in svg and "http://" not in svg.replace("http://www.w3.org/", "")
    assert tab.complaints() == []


def test_the_copy_button_copies_the_command(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    tab.run("document.addEventListener('copy', () => { window.copied = String(document.activeElement.value ?? ''); })")
    tab.run("Object.defineProperty(navigator, 'clipboard', { value: { writeText: (t) => { window.copied = t;"
            " return Promise.resolve(); } } })")  # fmt: skip
    tab.click(".take .small-button")
    assert tab.run("window.copied") == tab.run("document.querySelector('.take code').textContent")
    assert tab.run("window.copied").startswith("fgvc-kit export ")
    assert tab.run("document.querySelector('.take .small-button').textContent") == "Copied"


def test_one_button_opens_everything_and_closes_it(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    shut = "document.querySelectorAll('.group > details:not([open])').length"
    count = tab.run(shut)
    tab.click(".open-all")
    assert count > 8 and tab.run(shut) == 0
    tab.click(".open-all")
    assert tab.run(shut) == count


def test_without_a_script_the_page_still_reads(tab: Tab, report: Path) -> None:
    tab.open(report, 1280, script=False)
    tab.send("Emulation.setScriptExecutionDisabled", value=False)  # from here on; the page's own has not run
    shown = 'document.querySelector("{}").checkVisibility()'
    assert not tab.run(shown.format(".strip li"))
    for seen in (".take code.command", "svg.front-chart.wide", "summary", "a[download='report.csv']"):
        assert tab.run(shown.format(seen)), seen
    tab.click("#kept > summary")
    assert tab.run(shown.format(".strip li:nth-child(2)")), "a section opens without a script"
    assert tab.run("document.querySelectorAll('button').length") == 0, "a button that cannot work is not there"


def test_everything_that_can_be_used_is_reached_by_key_and_named(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    code = """[...document.querySelectorAll("a[href], button, input, summary, [tabindex]")]
      .filter((it) => it.checkVisibility() || it instanceof SVGElement)
      .filter((it) => it.tabIndex < 0 || !(it.getAttribute("aria-label") || it.labels?.length || it.textContent.trim()))
      .map((it) => it.outerHTML.slice(0, 120))"""
    for _ in ("closed", "open"):
        assert tab.run(code) == []
        tab.run(OPEN)
    levels = tab.run("[...document.querySelectorAll('h1, h2, h3')].map((it) => Number(it.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)), "no level is skipped"


def test_every_section_is_reached_by_tab_and_opened_by_key(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    wanted = tab.run("[...document.querySelectorAll('.group > details')].map((it) => it.id)")
    reached = []
    for _ in range(120):
        tab.press("Tab")
        if tab.run("document.activeElement.tagName") == "SUMMARY":
            here = tab.run("document.activeElement.parentElement.id")
            if here in reached:
                break
            reached.append(here)
            assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == wanted and len(wanted) > 8
    tab.run("document.querySelector('#front > summary').focus()")
    tab.press("Enter")
    assert tab.run("document.getElementById('front').open")


@pytest.mark.parametrize("script", [True, False])
def test_print_shows_all_and_hides_what_cannot_be_used(tab: Tab, report: Path, script: bool) -> None:
    tab.open(report, 794, media="print", script=script)
    tab.send("Emulation.setScriptExecutionDisabled", value=False)
    shut = "document.querySelectorAll('details:not([open])').length"
    assert tab.run(shut) > 8
    assert tab.run("[...document.querySelectorAll('.tools, button')].every((it) => !it.checkVisibility())")
    inside = tab.run("[...document.querySelectorAll('details :is(p, table, code, svg.wide, .strip li)')].length")
    hidden = """[...document.querySelectorAll("details :is(p, table, code, svg.wide, .strip li)")]
      .filter((it) => !it.checkVisibility() || !it.getClientRects().length).map((it) => it.outerHTML.slice(0, 90))"""
    assert inside > 50 and tab.run(hidden) == []
    assert tab.run("document.documentElement.scrollWidth") <= 794 and tab.run(WIDER) == []
    data = tab.send("Page.printToPDF", printBackground=True)["data"]
    assert base64.b64decode(data).startswith(b"%PDF")
    assert tab.run(shut) > 8, "closed again after the paper"
    tab.open(report, 1280)

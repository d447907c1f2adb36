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
from tests.reports.records import HOSTILE, write_run

pytestmark = pytest.mark.slow


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
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.complaints() == []
    assert tab.requests() == [report.resolve().as_uri()]
    assert tab.run("[...document.images].every(it => it.complete)")


def test_hostile_names_are_text(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    assert tab.run("document.scripts.length") == 1
    assert tab.run("document.images.length") == 0
    assert tab.run("document.querySelectorAll('[onerror],[onclick],[onload]').length") == 0
    for name in HOSTILE[:2]:
        assert tab.run(f"document.body.innerText.includes({name!r})")


def test_the_policy_blocks_what_is_not_ours(tab: Tab, report: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    text = report.read_text(encoding="utf-8")
    bad.write_text(text.replace("</main>", "<script>document.title='owned'</script></main>", 1), encoding="utf-8")
    tab.open(bad, 1280)
    assert tab.run("document.title") != "owned"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints())


def test_hovering_a_point_tells_its_numbers_and_lights_its_row(tab: Tab, report: Path) -> None:
    tab.open(report, 1280, 1400)
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
        if tab.run("document.activeElement.getAttribute('class')") == "point":
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
    if (![...it.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(it);
    const ink = parse(it instanceof SVGElement ? style.fill : style.color);
    const a = lum(ink), b = lum(ground(it));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.add(`${it.tagName}.${it.getAttribute("class")} ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()
"""
"""Elements whose text has less than 4.5 to 1 against its ground."""

CHOSEN = "document.querySelector('.bought:not([hidden])')"


def test_the_slider_moves_the_choice_its_command_and_the_chart(tab: Tab, report: Path) -> None:
    tab.open(report, 1280, 1400)
    before = tab.run(f"{CHOSEN}.dataset.key")
    tab.run("document.getElementById('budget-slider').focus()")
    tab.press("Home")
    assert tab.run(f"{CHOSEN}.classList.contains('none')")
    told = []
    for _ in range(260):
        tab.press("ArrowRight")
        at = tab.run("Number(document.getElementById('budget-slider').value)")
        said = tab.run(f"[{CHOSEN}.dataset.key, {CHOSEN}.querySelector('.badge')?.textContent]")
        if not told or told[-1][1] != said:
            told.append((at, said))
    sure = [(at, key) for at, (key, word) in told if word == "PASS"]
    assert len(sure) == 9 and before in [key for _, key in sure]
    for at, key in sure:
        low = tab.run(f"Number(document.querySelector('.bought[data-key={key}]').dataset.high)")
        assert 0 <= at - low < 0.06, "a point is bought as soon as its upper bound is paid"
    values = [float(tab.run(f"document.querySelector('.bought[data-key={key}]').dataset.value")) for _, key in sure]
    assert values == sorted(values)
    last = sure[-1][1]
    assert tab.run(f"{CHOSEN}.querySelector('code.command').textContent.includes('--schedule')")
    assert tab.run(f"document.querySelector('.front-chart .point[data-key={last}]').classList.contains('picked')")
    assert tab.run("document.querySelectorAll('.front-chart .point.picked').length") == 1
    moved = tab.run("document.querySelector('.ceiling line').getAttribute('x1')")
    tab.press("Home")
    assert float(tab.run("document.querySelector('.ceiling line').getAttribute('x1')")) < float(moved)
    assert tab.run("document.getElementById('budget-slider').getAttribute('aria-valuetext')").endswith("\u00a0ms")
    assert tab.complaints() == []


def test_the_layer_slider_shows_one_layer_and_the_buttons_all(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    shown = (
        "[...document.querySelectorAll('.strip > li')].filter((it) => getComputedStyle(it).display !== 'none').length"
    )
    images = tab.run("document.querySelectorAll('ul.kept > li').length")
    assert tab.run(shown) == images
    tab.run("document.getElementById('layer-slider').focus()")
    tab.press("End")
    assert tab.run(shown) == images
    assert "after layer 11" in tab.run("document.querySelector('.layer-slide').innerText")
    tab.click(".layer-slide button:last-of-type")
    assert tab.run(shown) > images
    assert tab.run("document.querySelector('.layer-slide button:last-of-type').getAttribute('aria-pressed')") == "true"
    tab.click(".layer-slide button:first-of-type")
    assert tab.run(shown) == images
    assert tab.complaints() == []


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
    tab.click(".bought:not([hidden]) .small-button")
    assert tab.run("window.copied") == tab.run(f"{CHOSEN}.querySelector('code.command').textContent")
    assert tab.run(f"{CHOSEN}.querySelector('.small-button').textContent") == "Copied"


def test_without_a_script_the_page_still_reads(tab: Tab, report: Path) -> None:
    tab.open(report, 1280, script=False)
    try:
        seen = tab.send("DOM.getDocument", depth=0)["root"]["nodeId"]

        def box(selector: str) -> object:
            node = tab.send("DOM.querySelector", nodeId=seen, selector=selector)["nodeId"]
            assert node, selector
            try:
                return tab.send("DOM.getBoxModel", nodeId=node)["model"]["height"]
            except AssertionError:
                return None

        assert box("#budget-slider") is None and box("#layer-slider") is None
        assert box(".bought:not([hidden]) code.command") and box("svg.front-chart") and box(".strip li:nth-child(2)")
        assert box("a[download='report.csv']")
        node = tab.send("DOM.querySelector", nodeId=seen, selector=".small-button:not([aria-pressed])")["nodeId"]
        assert node == 0, "a button that cannot work is not there"
    finally:
        tab.open(report, 1280)


def test_everything_that_can_be_used_is_reached_by_key_and_named(tab: Tab, report: Path) -> None:
    tab.open(report, 1280)
    code = """[...document.querySelectorAll("a[href], button, input, summary, [tabindex]")]
      .filter((it) => it.offsetParent !== null || it instanceof SVGElement)
      .filter((it) => it.tabIndex < 0 || !(it.getAttribute("aria-label") || it.textContent.trim()))
      .map((it) => it.outerHTML.slice(0, 120))"""
    assert tab.run(code) == []
    heads = tab.run("[...document.querySelectorAll('h1, h2, h3')].map((it) => it.tagName)")
    assert heads[0] == "H1" and heads.count("H1") == 1


def test_print_shows_all_and_hides_what_cannot_be_used(tab: Tab, report: Path) -> None:
    tab.open(report, 794, media="print")
    hidden = "[...document.querySelectorAll('nav, .slide, .tools, .small-button')]"
    assert tab.run(f"{hidden}.every((it) => getComputedStyle(it).display === 'none')")
    strips = "[...document.querySelectorAll('.strip > li')]"
    assert tab.run(f"{strips}.every((it) => getComputedStyle(it).display !== 'none')")
    assert tab.run("document.documentElement.scrollWidth") <= 794
    data = tab.send("Page.printToPDF", printBackground=True)["data"]
    assert base64.b64decode(data).startswith(b"%PDF")
    tab.open(report, 1280)


@pytest.mark.parametrize("dark", [False, True])
def test_several_searches_fit_and_nobody_complains(tab: Tab, tmp_path: Path, dark: bool) -> None:
    places = [write_run(tmp_path / name, classes=("a", "b", "c", "d")).folder for name in ("first", "second")]
    page = write_report(places, tmp_path / "out").html
    for width in (390, 1920):
        tab.open(page, width, dark=dark)
        assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.complaints() == [] and tab.requests() == [page.resolve().as_uri()]
    assert tab.run(CONTRAST) == []


def test_text_stands_out_from_its_ground(tab: Tab, report: Path) -> None:
    """WCAG AA: 4.5 to 1 for every colour that text is set in, on both grounds, light and dark."""
    for dark in (False, True):
        tab.open(report, 1280, dark=dark)
        assert tab.run(CONTRAST) == []

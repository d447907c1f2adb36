from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


def test_text_stands_out_from_its_ground(tab: Tab, report: Path) -> None:
    """WCAG AA: 4.5 to 1 for every colour that text is set in, on both grounds, light and dark."""
    code = """
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
    for dark in (False, True):
        tab.open(report, 1280, dark=dark)
        assert tab.run(code) == []

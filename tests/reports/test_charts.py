from __future__ import annotations

import re

import pytest

from tavt_kit.reports.blocks import Figure
from tavt_kit.reports.charts import (
    KINDS,
    Box,
    Frame,
    Mark,
    Scale,
    front_figure,
    layer_figure,
    padded,
    place_label,
    round_ticks,
    schedule_bar,
)
from tests.reports.pages import Page


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (3.1, 3.2), (60.0, 80.0), (0.0, 1e-4), (5.0, 12345.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert all(low <= tick <= high for tick in ticks)
    steps = {round((b - a) / (high - low), 6) for a, b in zip(ticks, ticks[1:], strict=False)}
    assert len(steps) == 1
    assert all(len(f"{tick:g}") <= 7 for tick in ticks)


def test_a_scale_holds_values_at_its_ends() -> None:
    scale = Scale(0.0, 10.0, 100.0, 0.0)
    assert [scale.at(value) for value in (-5.0, 0.0, 2.5, 99.0)] == [100.0, 100.0, 75.0, 0.0]


def test_padding_never_gives_an_empty_range() -> None:
    for values in ([5.0], [0.0], [0.0, 0.0], [1e-9, 2e-9]):
        low, high = padded(values, floor=0.0)
        assert low < high and low >= 0.0


def test_labels_cover_neither_marks_nor_one_another() -> None:
    marks = [(float(x), 50.0) for x in range(20, 200, 12)]
    taken, spots = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in marks], []
    for x, y in marks:
        spots.append(spot := place_label("name", x, y, 10.0, Box(0, 0, 220, 100), taken))
        taken += [spot.box("name")] if spot else []
    boxes = [Box(s.x - 14 if s.anchor == "middle" else s.x, s.y - 11, s.x + 20, s.y + 3) for s in spots if s]
    assert 0 < len(boxes) < len(marks)
    assert all(a.overlap(b) < 60 for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_name_stands_beyond_the_upright_text_of_a_budget() -> None:
    upright = Box(17, 0, 33, 100)
    spot = place_label("chosen", 5.0, 50.0, 17.0, Box(0, 0, 220, 100), [Box(0, 44, 11, 56), upright])
    assert spot is not None and spot.box("chosen").left >= upright.right


def mark(x: float, y: float, kind: str = "front", **more: object) -> Mark:
    return Mark(kind, str(more.pop("label", "")), x, y, **more)  # type: ignore[arg-type]


def drawn(marks: list[Mark], frame: Frame, title: str) -> str:
    return once(front_figure(marks, frame, title))


def once(figure: Figure) -> str:
    """A chart in its first size, the wide one."""
    first, other = str(figure.image).split("</svg>")[:2]
    assert 'class="chart wide' in first and 'class="chart narrow' in other
    return first.removeprefix('<div class="sizes">') + "</svg>"


def test_every_mark_is_drawn_where_its_numbers_say() -> None:
    marks = [mark(2.0, 60.0), mark(4.0, 70.0, "chosen"), mark(8.0, 80.0, "dense")]
    text = drawn(marks, Frame("ms", "%"), "chart")
    circles = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="14"', text)]
    assert len(circles) == 3
    by_x = sorted(circles)
    assert [y for _, y in by_x] == sorted((y for _, y in circles), reverse=True)
    gaps = [b[0] - a[0] for a, b in zip(by_x, by_x[1:], strict=False)]
    assert gaps[1] == pytest.approx(2 * gaps[0], rel=1e-3)


def test_a_few_marks_are_all_named_though_bars_cross_everything() -> None:
    bars = {"x_bar": (10.0, 100.0), "y_bar": (60.0, 80.0)}
    near = [mark(20 + 7 * number, 70 + 0.3 * number, label=f"network {number}", **bars) for number in range(4)]
    page = Page(drawn(near, Frame("ms", "%"), "chart"))
    assert all(f"network {number}" in page.text for number in range(4))
    many = [mark(20 + 0.1 * number, 70.0, label=f"network {number}", **bars) for number in range(9)]
    assert "network 4" not in Page(drawn(many, Frame("ms", "%"), "chart")).text


def test_budget_and_floor_are_drawn_and_named() -> None:
    frame = Frame("ms", "%", 5.0, "budget 5 ms", 65.0, "asked for 65 %")
    page = Page(drawn([mark(2.0, 60.0), mark(9.0, 70.0)], frame, "chart"))
    assert "budget 5 ms" in page.text and "asked for 65 %" in page.text
    assert page.attributes("class").count("limit") == 2 and page.attributes("class").count("beyond") == 2


def test_a_budget_far_away_does_not_squeeze_the_front() -> None:
    text = drawn([mark(2.0, 60.0), mark(4.0, 70.0)], Frame("ms", "%", 1000.0, "budget"), "chart")
    page = Page(text)
    assert "budget →" in page.text and "limit" not in page.attributes("class")
    assert max(float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)) > 500


def test_bars_and_predictions() -> None:
    text = drawn([mark(2.0, 60.0, x_bar=(1.9, 2.4), y_bar=(55.0, 65.0))], Frame("ms", "%"), "c")
    assert 'class="bars front"' in text and "h6" in text and "v6" in text and "hollow" not in text
    assert 'class="mark front hollow"' in drawn([mark(2.0, 60.0, measured=False)], Frame("ms", "%"), "c")


def test_only_the_front_makes_the_staircase() -> None:
    text = drawn([mark(2.0, 60.0), mark(3.0, 65.0), mark(2.5, 90.0, "taper")], Frame("ms", "%"), "c")
    (path,) = re.findall(r'd="(M[^"]*)" class="staircase"', text)
    assert path.count("H") == path.count("V") == 1


def test_the_legend_names_what_is_there() -> None:
    marks = [mark(1.0, 1.0), mark(1.0, 1.0, "int8", y_bar=(0.0, 2.0))]
    found = Page(str(front_figure(marks, Frame("ms", "%"), "c").legend)).text
    assert found == "fewer tokens dense, INT8 95 % interval of the accuracy"
    for kind in KINDS:
        assert drawn([mark(1.0, 50.0, kind)], Frame("ms", "%"), "c")


def test_hover_text_is_escaped() -> None:
    text = drawn([mark(1.0, 50.0, lines=("<b>", '"x"'), label="<i>")], Frame("<u>", "&"), "<svg>")
    page = Page(text)
    assert page.count("b") == page.count("i") == page.count("u") == 0
    assert '<b>; "x"' in page.attributes("aria-label")


def test_schedule_bar_heights_follow_the_counts() -> None:
    text = str(schedule_bar((100, 50, 25), 100, "tokens"))
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="kept"', text)]
    assert heights == pytest.approx([22.0, 11.0, 5.5])
    assert str(schedule_bar((9,) * 40, 10, "tokens")).count("<rect") == 80


def test_layer_chart_groups_bars() -> None:
    dense = {"stem": 1.0, "0": 2.0, "head": 0.5}
    bars = {"dense": dense, "chosen": dense | {"0": 1.0}}
    figure = layer_figure(("stem", "0", "head"), bars, "time")
    text = once(figure)
    heights = {kind: [float(h) for h in re.findall(rf'height="([\d.]+)" class="bar-{kind}"', text)] for kind in "ab"}
    assert [len(found) for found in heights.values()] == [3, 3]
    assert heights["a"][1] == pytest.approx(2 * heights["b"][1])
    assert "layer 0; dense 2.00\u00a0ms; chosen 1.00\u00a0ms" in Page(text).attributes("aria-label")
    assert str(figure.legend).count("<li") == 2


def test_a_baseline_far_below_stands_at_the_edge_with_its_figure() -> None:
    marks = [
        mark(2.0, 80.0),
        mark(4.0, 86.0, "chosen"),
        mark(8.0, 90.0, "dense"),
        mark(6.0, 9.0, "layers", label="few"),
    ]
    page = Page(drawn(marks, Frame("ms", "%"), "chart"))
    ticks = [float(text) for text in page.texts if re.fullmatch(r"\d+", text)]
    assert "few 9.0 % ↓" in page.text and min(tick for tick in ticks if tick > 10) >= 78


def test_names_keep_off_error_bars() -> None:
    marks = [
        mark(float(x), 50.0, "front", label="name", y_bar=(30.0, 70.0), x_bar=(x - 0.3, x + 0.3)) for x in range(1, 9)
    ]
    text = drawn(marks, Frame("ms", "%"), "chart")
    bars = [tuple(map(float, found)) for found in re.findall(r'd="M([\d.]+) ([\d.]+)V([\d.]+)', text)]
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="name front (start|middle|end)"', text)
    assert len(bars) == 8 and names
    for x, y, anchor in names:
        left = float(x) - {"start": 0, "middle": 14, "end": 28}[anchor]
        assert not [bar for bar in bars if left < bar[0] < left + 28 and bar[2] < float(y) - 4 < bar[1]]


def test_the_text_of_the_budget_keeps_off_the_chosen_marks_bar() -> None:
    frame = Frame("ms", "%", ceiling=8.0, ceiling_text="budget 8 ms (p90)")

    def across(*marks: Mark) -> float:
        found = re.search(r'class="beyond">.*?x1="([\d.]+)".*?<text x="([\d.]+)"', drawn(marks, frame, "chart"), re.S)
        assert found is not None
        return float(found[2]) - float(found[1])

    far = mark(20.0, 60.0, "dense", y_bar=(40.0, 80.0))
    assert across(mark(2.0, 50.0, "chosen", y_bar=(45.0, 55.0)), far) < 0  # left of the line, where there is room
    assert across(mark(7.8, 50.0, "chosen", y_bar=(40.0, 80.0)), far) > 0

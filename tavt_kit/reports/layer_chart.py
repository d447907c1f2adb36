"""Where the time goes: the milliseconds of each layer, dense beside chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tavt_kit.core.part_names import part_words
from tavt_kit.reports.axes import Scale, round_ticks
from tavt_kit.reports.legend import legend
from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.numbers import ms_text

__all__ = ["Bars", "bars_legend", "layer_chart"]

_WIDTH, _HEIGHT = 1040.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 22.0, 16.0, 46.0


@dataclass(frozen=True, slots=True)
class Bars:
    """One bar for each part.

    Args:
        label: Name of the model, such as ``dense``.
        kind: Style of the bar: ``a`` for the dense model, ``b`` for the chosen one.
        values: Milliseconds by the names of the parts.
    """

    label: str
    kind: str
    values: Mapping[str, float]


def layer_chart(names: Sequence[str], bars: Sequence[Bars], title: str) -> Element:
    """Groups of bars, one group a part of the model.

    Args:
        names: Of the parts: stem, 0, 1, ..., head.
        bars: From left to right in every group.
        title: What a screen reader says for the whole picture.
    """
    highest = max([1e-9, *(ms for one in bars for ms in one.values.values())])
    y_axis = Scale(0.0, 1.08 * highest, _HEIGHT - _BOTTOM, _TOP)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(names)
    parts = _frame(y_axis)
    for index, name in enumerate(names):
        left = _LEFT + slot * (index + 0.1)
        width = slot * 0.8 / len(bars)
        for place, one in enumerate(bars):
            if name in one.values:
                parts.append(_bar(left + place * width, width, one, name, y_axis))
        parts.append(_hover(index, name, slot, bars))
        middle = _LEFT + slot * (index + 0.5)
        parts.append(el("text", name, x=middle, y=_HEIGHT - _BOTTOM + 18, class_="tick middle"))
    parts.append(el("text", "layer", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, class_="title middle"))
    return el("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="chart", role="img", aria_label=title)


def bars_legend(bars: Sequence[Bars]) -> Element:
    """What each bar of a group is."""
    return legend([(el("rect", x=3, y=3, width=14, height=14), f"bar-{one.kind}", one.label) for one in bars])


def _frame(y_axis: Scale) -> list[Element]:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for tick in round_ticks(y_axis.low, y_axis.high, 5):
        y = y_axis.at(tick)
        parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", f"{tick:g}", x=_LEFT - 10, y=y + 4, class_="tick end"))
    middle = (_TOP + bottom) / 2
    parts.append(el("text", "ms", x=16, y=middle, transform=f"rotate(-90 16 {middle:g})", class_="title middle"))
    parts.append(el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    return parts


def _bar(left: float, width: float, bars: Bars, name: str, y_axis: Scale) -> Element:
    top, bottom = y_axis.at(bars.values[name]), y_axis.at(0.0)
    width = max(1.0, width - 1)
    return el("rect", x=left, y=top, width=width, height=max(0.0, bottom - top), class_=f"bar-{bars.kind}")


def _hover(index: int, name: str, slot: float, bars: Sequence[Bars]) -> Element:
    """An unseen rectangle over the group, so that a thin bar can be pointed at."""
    lines = [part_words(name)]
    lines += [f"{one.label} {ms_text(one.values[name])}" for one in bars if name in one.values]
    area = el("rect", x=_LEFT + slot * index, y=_TOP, width=slot, height=_HEIGHT - _TOP - _BOTTOM, class_="target")
    return el("g", area, class_="point", tabindex=0, role="img", aria_label="; ".join(lines))

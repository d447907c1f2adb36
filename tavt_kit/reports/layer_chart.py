"""Where the time goes: the milliseconds of each layer, dense beside chosen."""

from __future__ import annotations

from collections.abc import Sequence

from tavt_kit.reports.axes import Scale, round_ticks
from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.numbers import ms_text

__all__ = ["layer_chart"]

_WIDTH, _HEIGHT = 1040.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 22.0, 16.0, 46.0


def layer_chart(names: Sequence[str], dense: Sequence[float], chosen: Sequence[float] | None, title: str) -> Element:
    """Pairs of bars, one pair a part of the model.

    Args:
        names: Of the parts: stem, 0, 1, ..., head.
        dense: Milliseconds of each in the dense model.
        chosen: The same under the chosen schedule, or ``None``.
        title: What a screen reader says for the whole picture.
    """
    y_axis = Scale(0.0, 1.08 * max([*dense, *(chosen or ()), 1e-9]), _HEIGHT - _BOTTOM, _TOP)
    slot = (_WIDTH - _LEFT - _RIGHT) / len(names)
    bars = [dense] if chosen is None else [dense, chosen]
    parts = _frame(y_axis)
    for index, name in enumerate(names):
        left = _LEFT + slot * (index + 0.14)
        width = slot * 0.72 / len(bars)
        for place, values in enumerate(bars):
            parts.append(_bar(left + place * width, width, values[index], y_axis, "ab"[place]))
        parts.append(_hover(index, name, slot, [values[index] for values in bars]))
        middle = _LEFT + slot * (index + 0.5)
        parts.append(el("text", name, x=middle, y=_HEIGHT - _BOTTOM + 18, class_="tick middle"))
    parts.append(el("text", "layer", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, class_="title middle"))
    return el("svg", *parts, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", class_="chart", role="img", aria_label=title)


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


def _bar(left: float, width: float, value: float, y_axis: Scale, letter: str) -> Element:
    top, bottom = y_axis.at(value), y_axis.at(0.0)
    return el("rect", x=left, y=top, width=max(1.0, width - 1), height=bottom - top, class_=f"bar-{letter}")


def _hover(index: int, name: str, slot: float, values: Sequence[float]) -> Element:
    """An unseen rectangle over the pair, so that a thin bar can be pointed at."""
    words = ("dense", "chosen")
    lines = [f"layer {name}" if name.isdigit() else name]
    lines += [f"{word} {ms_text(value)}" for word, value in zip(words, values, strict=False)]
    area = el("rect", x=_LEFT + slot * index, y=_TOP, width=slot, height=_HEIGHT - _TOP - _BOTTOM, class_="target")
    return el("g", area, class_="point", tabindex=0, role="img", aria_label="; ".join(lines))

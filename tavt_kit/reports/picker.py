"""What each budget buys: a slider over the measured points, and the same as a table for paper and Markdown."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from tavt_kit.core.budget import Budget
from tavt_kit.errors import BudgetError
from tavt_kit.reports import words
from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Table
from tavt_kit.reports.candidates import CandidateView, FrontView, accuracy_cell, judge_view
from tavt_kit.reports.charts import schedule_bar
from tavt_kit.reports.markup import fill
from tavt_kit.reports.records import text

_STEPS = 240
"""Places of the slider, about."""


@dataclass(frozen=True, slots=True)
class Buy:
    """One candidate that a budget may buy.

    Args:
        view: The candidate.
        low: The least budget that it may keep to.
        high: The least budget that it surely keeps to; infinite where that is not known.
        sure: Its verdict from there on: PASS, or PREDICTED where nothing was measured.
        rest: Its verdict over all other limits.
    """

    view: CandidateView
    low: float
    high: float
    sure: str
    rest: str


def buys_of(view: FrontView) -> list[Buy]:
    """The points by rising cost; costs in ms, or in multiply-adds where no latency is known."""
    rest = Budget(tuple(limit for limit in view.budget if limit.quantity not in ("latency", "throughput", "flops")))
    if view.is_timed:
        rest = Budget((*rest.limits, *view.budget.of("flops")))
    found = []
    for one in view.choosable():
        try:
            over = str(judge_view(one, rest, view.metric, view.batch))
        except BudgetError:  # a limit that the record cannot be held against decides nothing
            over = "INCONCLUSIVE"
        cost = view.cost(one) or 0.0
        low, high, sure = cost, cost, "PASS"
        if view.is_timed and one.time is not None:
            is_measured = one.time.median is not None
            low, high = one.time.bounds(view.statistic) if is_measured else (cost, cost)
            sure = "PASS" if is_measured else "PREDICTED"
        found.append(Buy(one, low, high, sure, over))
    return found


def steps_of(buys: Sequence[Buy], *, cheapest: bool) -> list[Buy]:
    """The points that a growing budget buys one after another; each from its ``high`` on.

    With a floor (``cheapest``) the cheapest that keeps to it is bought at every budget.
    """
    best: list[Buy] = []
    for buy in sorted((buy for buy in buys if math.isfinite(buy.high)), key=lambda buy: buy.high):
        if buy.rest not in ("PASS", "PREDICTED") or buy.view.accuracy is None:
            continue
        before = best[-1].view.accuracy if best else None
        if before is None or (not cheapest and buy.view.accuracy.value > before.value):
            best.append(buy)
    return best


def export_command(view: FrontView, one: CandidateView, folder: Path) -> str:
    """The command that writes this point as a file for the front's target, and checks it."""
    runtime, precision = (text(view.record, "target", name) for name in ("runtime", "precision"))
    form = {"openvino": "openvino", "onnxruntime": "onnx", "torch": "safetensors"}.get(runtime or "", "onnx")
    if one.genes:  # which no --schedule can say
        shown = [other.schedule for other in view.candidates]
        place = shown.index(one.schedule) if one.place is None else one.place
        return shlex.join(["fgvc-kit", "export", str(folder), "--pick", str(place), "--format", form])
    parts = ["fgvc-kit", "export", str(folder), "--schedule", one.schedule, "--format", form]
    return shlex.join(parts if precision in (None, "f32") else [*parts, "--precision", str(precision)])


def picker_blocks(view: FrontView, folder: Path) -> list[Block]:
    """The slider and its table; nothing where there is no point to choose."""
    buys = buys_of(view)
    if not buys:
        return []
    figure = Figure("budget", _panel(view, buys, folder), scrolls=False)
    steps = steps_of(buys, cheapest=bool(view.budget.floors))
    return [figure, _table(view, steps, folder)] if steps else [figure]


def _panel(view: FrontView, buys: Sequence[Buy], folder: Path) -> Markup:
    scale = 1.0 if view.is_timed else 1e-9
    limit = next(iter(view.budget.of("latency" if view.is_timed else "flops")), None)
    chosen = next((buy for buy in buys if view.pick is not None and buy.view.schedule == view.pick.schedule), None)
    ends = [end for buy in buys for end in (buy.low, buy.high) if math.isfinite(end)]
    start = limit.value if limit else max(ends)
    low, high = 0.9 * min(ends), max(1.06 * max(ends), start)
    step = _step((high - low) * scale / _STEPS)
    decimals = max(0, -math.floor(math.log10(step)))
    least = min((buy.high for buy in buys if math.isfinite(buy.high)), default=max(ends))
    return fill(
        "picker.html",
        unit="ms" if view.is_timed else "G",
        what=words.quantile_words(view.statistic) if view.is_timed else "multiply-adds of one image",
        decimals=decimals,
        cheapest=bool(view.budget.floors),
        low=f"{math.floor(low * scale / step) * step:.{decimals}f}",
        high=f"{math.ceil(high * scale / step) * step:.{decimals}f}",
        step=f"{step:.{decimals}f}",
        start=f"{start * scale:.{decimals}f}",
        options=[_option(view, buy, folder, buy is chosen, scale) for buy in buys],
        is_chosen=chosen is not None,
        least=words.ms_text(least) if view.is_timed else words.macs_text(least),
    )


def _step(least: float) -> float:
    """1, 2 or 5 times a power of ten, not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 0.01
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least)


def _option(view: FrontView, buy: Buy, folder: Path, is_chosen: bool, scale: float) -> dict[str, object]:
    """One point as it is shown when it is bought; the script shows one of them and sets its verdict."""
    one = buy.view
    return {
        "chosen": is_chosen,
        "key": one.key,
        "low": f"{buy.low * scale:.9g}",
        "high": f"{buy.high * scale:.9g}" if math.isfinite(buy.high) else "",
        "value": f"{one.accuracy.value:.9g}" if one.accuracy else "",
        "sure": buy.sure,
        "rest": buy.rest,
        "verdict": view.verdict if is_chosen else buy.sure,
        "accuracy": str(one.accuracy),
        "words": _said(view, one),
        "bar": schedule_bar(one.counts, view.tokens, f"tokens: {one.schedule}") if one.counts else "",
        "name": "dense model" if one.origin == "dense" else one.schedule,
        "command": export_command(view, one, folder),
    }


def _said(view: FrontView, one: CandidateView) -> str:
    """What follows the accuracy: its interval, cost and speed in one line."""
    accuracy, loss, speed = one.accuracy, one.difference.difference, view.speedup(one)
    said = f" {words.metric_words(view.metric)} on {view.split}"
    if accuracy is not None and accuracy.interval:
        said += f" (95 % {accuracy.interval}{f', {words.n_text(accuracy.n)}' if accuracy.n else ''})"
    if loss is not None and one.origin != "dense":
        said += f", {words.points_text(loss)} points against dense"
    said += f"; {cost_words(view, one)}"
    return said if speed is None or one.origin == "dense" else f"{said}, {words.ratio_text(speed)} as fast as dense"


def cost_words(view: FrontView, one: CandidateView) -> str:
    """The quantile that the budget is on, or the multiply-adds, of one candidate."""
    if not view.is_timed or one.time is None:
        return f"{words.macs_text(one.macs)} multiply-adds"
    if one.time.median is None:
        return f"predicted {words.ms_text(one.time.predicted)}"
    return f"{view.statistic} {words.ms_text(view.cost(one))} {one.time.doubt_of(view.statistic)}".rstrip()


def _table(view: FrontView, steps: Sequence[Buy], folder: Path) -> Table:
    unit = words.quantile_words(view.statistic) if view.is_timed else "multiply-adds"
    caption = "What each budget buys, for sure: the most accurate measured point whose bounds lie below it."
    if view.budget.floors:
        caption = "What the floors of the budget leave: the cheapest measured point that keeps to them."

    def name(buy: Buy) -> Cell:
        return Cell("dense" if buy.view.origin == "dense" else buy.view.schedule, code=True)

    def cost(buy: Buy) -> str:
        return words.ms_text(buy.high) if view.is_timed else words.macs_text(buy.high)

    return Table.of(
        steps,
        caption,
        (
            Column("A budget from", hint=unit),
            lambda buy: (words.ms_text if view.is_timed else words.macs_text)(buy.high),
        ),
        (Column("buys", numeric=False, hint="tokens kept after each layer"), name),
        (
            Column(words.metric_words(view.metric), hint=f"{view.split}, 95 %"),
            lambda buy: accuracy_cell(buy.view.accuracy),
        ),
        (Column("Speed", hint="dense = 1"), lambda buy: words.ratio_text(view.speedup(buy.view))),
        ("Verdict", lambda buy: Cell(buy.sure if buy.rest == "PASS" else buy.rest, badge=True)),
        ("Export", lambda buy: Cell(export_command(view, buy.view, folder), code=True)),
        folded=True,
    )

"""How training went: the loss and its terms over the steps, the evaluations on val, and which one was selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tavt_kit.reports.blocks import Block, Figure, Missing, Section, Text
from tavt_kit.reports.charts import Curve, curve_chart, curve_legend, thinned
from tavt_kit.reports.gather import Found, Records
from tavt_kit.reports.numbers import DASH, percent_text, significant
from tavt_kit.reports.views import mapping, number, text, whole
from tavt_kit.reports.words import metric_words

__all__ = ["learning_section"]

_ANCHOR, _TITLE = "learning", "How training went"
_OTHER = ("step", "loss", "lr", "gradient_norm", "loss_scale", "images_per_second", "seconds_waiting")
"""What a line holds beside evaluations and the terms of the loss."""

_WORDS = {
    "cross_entropy": "cross-entropy of the full network",
    "kl_smallest": "divergence of the smallest",
    "kl_random": "divergence of random sub-networks",
}
_VAL = "val_"


def learning_section(records: Records) -> Section | Missing:
    """The curves of every run that was trained step by step."""
    blocks: list[Block] = []
    for run in records.all("run"):
        blocks += _run(run, records.steps.get(run.path, ()))
    if not blocks:
        return Missing("Learning curves", "fgvc-kit distill MODEL")
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def _run(run: Found, steps: Sequence[Mapping[str, Any]]) -> list[Block]:
    losses = _points(steps, "loss")
    if not losses:
        return []
    what = "distillation" if text(run.body, "verb") == "distill" else "fine-tuning"
    name = f"{what} by the recipe {text(run.body, 'asked', 'recipe') or DASH}"
    terms = [key for key in steps[0] if key not in _OTHER and not key.startswith(_VAL)]
    curves = [thinned("loss", losses, spread=True)]
    curves += [thinned(_WORDS.get(term, term), points) for term in terms if (points := _points(steps, term))]
    title = f"loss over the steps of {name}"
    blocks: list[Block] = [
        Text.of(_sentence(run.body, name, steps, losses)),
        Figure(title, curve_chart(curves[:4], losses[-1][0], "loss", title), "", curve_legend(curves[:4])),
    ]
    return blocks + [_evaluations(run.body, name, steps, metric) for metric in _metrics(steps)]


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    found = ((number(line, "step"), number(line, name)) for line in steps)
    return [(step, value) for step, value in found if step is not None and value is not None]


def _metrics(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of what was evaluated on the way."""
    names = dict.fromkeys(key for line in steps for key in line if key.startswith(_VAL))
    return [key.removeprefix(_VAL) for key in names if _points(steps, key)]


def _sentence(
    body: Mapping[str, Any], name: str, steps: Sequence[Mapping[str, Any]], losses: Sequence[tuple[float, float]]
) -> str:
    share = max(1, len(losses) // 10)
    first, last = (fmean(value for _, value in part) for part in (losses[:share], losses[-share:]))
    asked = whole(body, "asked", "steps")
    done = f"{losses[-1][0]:.0f}"
    made = f"{done} steps" if asked is None or f"{asked}" == done else f"{done} of {asked} steps"
    if made != f"{done} steps" and mapping(body, "results", "loop"):
        made += " (patience ran out)"
    values = f"from {significant(first)} to {significant(last)} (means of the first and the last tenth)"
    fell = "the loss fell" if last < first else "the loss did not fall: it went"
    return f"{name[0].upper()}{name[1:]}: {made}; {fell} {values}.{_selected(body)}{_waiting(body, steps)}"


def _selected(body: Mapping[str, Any]) -> str:
    selected = mapping(body, "results", "loop", "selected")
    metric, value, step = text(selected, "metric"), number(selected, "value"), whole(selected, "step")
    if metric is None or value is None or step is None:
        return ""
    return f" The weights are those of step {step}, the best by {_on_val(body, metric)} ({_value(metric, value)})."


def _waiting(body: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> str:
    waited = [value for _, value in _points(steps, "seconds_waiting")]
    seconds = number(body, "results", "loop", "seconds")
    if not waited or not seconds:
        return ""
    return f" It waited for pictures {percent_text(sum(waited) / (sum(waited) + seconds))} of the time."


def _value(metric: str, value: float) -> str:
    return significant(value) if metric == "loss" else percent_text(value)


def _evaluations(body: Mapping[str, Any], name: str, steps: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    scale, unit = (1, "nats") if metric == "loss" else (100, "%")
    shown = tuple((step, scale * value) for step, value in _points(steps, f"{_VAL}{metric}"))
    curve = Curve(_on_val(body, metric), shown, dots=True, ring=number(body, "results", "loop", "selected", "step"))
    title = f"{curve.name} over the steps of {name}"
    last = number(steps[-1], "step") or shown[-1][0]
    return Figure(
        title, curve_chart([curve], last, f"{metric_words(metric)}, {unit}", title), "", curve_legend([curve])
    )


def _on_val(body: Mapping[str, Any], metric: str) -> str:
    over = ", mean over the ladder of schedules" if text(body, "verb") == "distill" else ""
    return f"{metric_words(metric)} on val{over}"

"""The headline: does it fit, what does it keep, on which split; said before anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.blocks import Headline, KeyFigure, Text
from tavt_kit.reports.candidates import AccuracyView, CandidateView, FrontView
from tavt_kit.reports.exported import failed_checks
from tavt_kit.reports.final import better_baselines, better_than_chosen, final_rows
from tavt_kit.reports.fit import fit_headline
from tavt_kit.reports.records import Records, mapping, number, sequence
from tavt_kit.reports.training import lowered_dense

_LEADS = {
    "PASS": "The model that {fits} {budget}{where}",
    "PREDICTED": "The model that should {fit} {budget}{where}, by prediction only,",
    "INCONCLUSIVE": "It cannot be told yet whether a model {fits} {budget}{where}: the best that may",
    "FAIL": "Nothing {fits} {budget}{where}: what was chosen",
}


def headline(records: Records) -> Headline:
    """What a fit recommends, the verdict of the search, or a plain sentence where there was none."""
    if fit := records.first("fit"):
        return fit_headline(fit)
    front = records.first("front")
    if not front:
        return Headline("", Text.of(_without_search(records)))
    view = FrontView.of(front)
    pick = view.pick
    if pick is None:
        sentence = f"Nothing fits {words.budget_words(view.budget)}{_where(front)}{_nearest(view)}; FAIL."
        return Headline(view.verdict or "FAIL", Text.of(sentence))
    final = final_rows(records.first("final"))
    chosen = next((row for row in final if row.kind == "chosen"), None)
    better = (*better_than_chosen(front), *better_baselines(records.first("final")))
    return Headline(
        view.verdict,
        Text.of(_sentence(view, pick, _where(front))),
        (
            *(Text.of(sentence, kind="warning") for sentence in better),
            *_held_out(view, final),
            *(Text.of(sentence, kind="warning") for sentence in _doubts(front, pick, records)),
        ),
        tuple(_figures(view, pick, chosen)),
        beaten=bool(better),
    )


def _nearest(view: FrontView) -> str:
    """What the cheapest candidate takes: time or multiply-adds, unless memory alone is limited, and memory if it is."""
    least = min((cost for one in view.candidates if (cost := view.cost(one)) is not None), default=None)
    peaks = [one.memory.most for one in view.candidates if one.memory is not None and one.memory.most is not None]
    sizes = view.budget.of("memory")
    alone = bool(sizes) and view.budget.ceilings == sizes
    needs = [] if least is None or alone else [_cost(view, least)]
    if sizes and peaks:
        needs.append(f"{words.peak_text(min(peaks))} of memory")
    return f"; the least that a candidate needs is {' and '.join(needs)}" if needs else ""


def _cost(view: FrontView, value: float) -> str:
    return f"{words.ms_text(value)} ({view.statistic})" if view.is_timed else f"{words.macs_text(value)} multiply-adds"


def _where(front: object) -> str:
    target = words.target_words(mapping(front, "target"))
    return f" on {target}" if target else ""


def _sentence(view: FrontView, pick: CandidateView, where: str) -> str:
    """``The model that fits 8 ms keeps 84.1 % (dense 84.6 %), 2.9× faster; PASS, p90 7.6 ms ± 2 %``, and where."""
    lead = _LEADS.get(view.verdict, "The model chosen for {budget}{where}")
    if not view.budget.limits:
        lead = "The most accurate candidate{where}"
    fits = {"fits": "keeps to", "fit": "keep to"} if view.budget.floors else {"fits": "fits", "fit": "fit"}
    parts = [lead.format(budget=words.budget_words(view.budget), where=where, **fits) + " ", _keeps(view, pick)]
    speedup = view.speedup(pick)
    if speedup is not None and pick.origin != "dense":
        parts.append(f", {words.ratio_text(speedup)} {'faster' if speedup >= 1 else 'the speed'}")
    parts.append(f"; {', '.join(word for word in (view.verdict, _time(view, pick), _memory(view, pick)) if word)}")
    return "".join(parts) + "."


def _keeps(view: FrontView, pick: CandidateView) -> str:
    accuracy, difference = pick.accuracy, pick.difference.difference
    if accuracy is None:
        return "has an accuracy that is not known"
    dense = ""
    if view.dense and view.dense.accuracy:
        dense = f" (dense {view.dense.accuracy})"
    elif difference is not None:  # only that is recorded
        dense = f" (dense {words.percent_text(accuracy.value - difference)})"
    n = f", {words.n_text(accuracy.n)}" if accuracy.n else ""
    return f"keeps {accuracy} {words.metric_words(view.metric)}{dense} on the {view.split} split{n}"


def _time(view: FrontView, pick: CandidateView) -> str:
    time = pick.time
    if time is None:
        return f"{words.macs_text(pick.macs)} multiply-adds"
    if time.median is None:
        return f"predicted {words.ms_text(time.predicted)}"
    name = "median" if view.statistic == "p50" else view.statistic
    said = f"{name} {words.ms_text(time.of_statistic(view.statistic))} {time.doubt_of(view.statistic)}".rstrip()
    return f"{said}, unsteady" if time.steady is False else said


def _memory(view: FrontView, pick: CandidateView) -> str:
    """Where memory was limited or weighed: the measured peak, or that it was only predicted."""
    dense = None if view.dense is None else view.dense.memory
    beside = "" if dense is None else f" (dense {dense})"
    return "" if pick.memory is None else f"peak memory {pick.memory}{beside}"


def _held_out(view: FrontView, rows: Sequence[CandidateView]) -> list[Text]:
    """The figure on images that nothing was selected on, or that there is none."""
    chosen, dense = (next((row for row in rows if row.kind == kind), None) for kind in ("chosen", "dense"))
    if chosen is not None and chosen.accuracy is not None and chosen.split != view.split:
        accuracy = chosen.accuracy
        beside = f" (dense {dense.accuracy})" if dense and dense.accuracy else ""
        said = (
            f"On the {chosen.split} split, which nothing was selected on, it scores {accuracy}{beside}, "
            f"95 % interval {accuracy.interval}{f', {words.n_text(accuracy.n)}' if accuracy.n else ''}."
        )
        return [Text.of(said)]
    luck = (
        f"It was selected on this very {view.split} split, so a little of that figure is luck; "
        "only a test split that nothing was selected on can tell how much."
    )
    return [] if view.split == "test" else [Text.of(luck, kind="note")]


def _doubts(front: Mapping[str, Any], pick: CandidateView, records: Records) -> list[str]:
    """What stands against the verdict: an unsteady clock, limits that are not decided, files that failed."""
    sentences = [
        f"The budget was given to this report; the search was for {', '.join(map(str, told))}, so it may not have "
        "looked where this one is best met."
        for told in (sequence(front, "searched_for"),)
        if told and list(told) != list(sequence(front, "budgets"))
    ]
    if sentences and (rows := final_rows(records.first("final"))) and not any(row.kind == "chosen" for row in rows):
        sentences.append(
            "The baselines of the closing table cannot be held against this choice, of which nothing was counted on "
            "their split: export it, and its check will."
        )
    sentences += [f"Not decided: {text}." for text in sequence(front, "undecided") if isinstance(text, str)]
    time = pick.time
    if time is not None and time.steady is False and time.p10 is not None and time.p90 is not None:
        load, cores = number(front, "host", "load", 0), len(sequence(front, "host", "affinity"))
        busy = f", with a load of {load:g} on {words.plural(cores, 'CPU')}" if load is not None and cores else ""
        sentences.append(
            f"The times are unsteady (p10 to p90 is {words.ms_text(time.p10)} to {words.ms_text(time.p90)}{busy}): "
            "measure again on a quieter machine before relying on them."
        )
    if lowered := lowered_dense(records):
        sentences.append(lowered)
    return sentences + failed_checks(records, pick.counts)


def _figures(view: FrontView, pick: CandidateView, chosen: CandidateView | None) -> list[KeyFigure]:
    figures = []
    if pick.time is not None and pick.time.median is not None:
        value = pick.time.of_statistic(view.statistic)
        limit = next(iter(view.budget.of("latency")), None)
        small = f"budget {words.limit_words(limit)}" if limit else ""
        figures.append(KeyFigure(words.ms_text(value), words.quantile_words(view.statistic), small))
    if pick.accuracy is not None:
        figures.append(_accuracy(pick.accuracy, f"{words.metric_words(view.metric)} on {view.split}"))
    if chosen is not None and chosen.accuracy is not None and chosen.split != view.split:
        figures.append(_accuracy(chosen.accuracy, f"{words.metric_words(view.metric)} on {chosen.split}"))
    loss = pick.difference.difference
    if loss is not None and pick.origin != "dense":
        low, high = pick.difference.ci95
        small = f"95 % {words.points_interval(low, high)}, paired" if low is not None else ""
        figures.append(KeyFigure(words.points_text(loss), f"points vs dense, {view.split}", small))
    speedup = view.speedup(pick)
    if speedup is not None and view.dense is not None and view.dense.time is not None:
        figures.append(
            KeyFigure(words.ratio_text(speedup), "speed vs dense", f"dense {words.ms_text(view.dense.time.median)}")
        )
    if pick.memory is not None and pick.memory.median is not None:
        limit = next(iter(view.budget.of("memory")), None)
        small = f"budget {limit.show(limit.value)}, " if limit else ""
        figures.append(
            KeyFigure(str(pick.memory), "peak memory", f"{small}at most {words.peak_text(pick.memory.most)}")
        )
    if pick.macs and view.dense is not None and view.dense.macs:
        share = pick.macs / view.dense.macs
        figures.append(KeyFigure(words.percent_text(share, 0), "of the multiply-adds", words.macs_text(pick.macs)))
    return figures


def _accuracy(accuracy: AccuracyView, label: str) -> KeyFigure:
    parts = [f"95 % {accuracy.interval}" if accuracy.interval else "", words.n_text(accuracy.n) if accuracy.n else ""]
    return KeyFigure(str(accuracy), label, ", ".join(part for part in parts if part))


def _without_search(records: Records) -> str:
    if records.all("bench"):
        return "Measured, but not searched: no budget was asked for, so there is no verdict."
    if records.all("run"):
        return "Trained, but not searched: no budget was asked for, so there is no verdict."
    return "No search was recorded, so there is no verdict."

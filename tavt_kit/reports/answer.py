"""The answer: what to ship and why, or what the records say where nothing was searched; before anything else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tavt_kit.reports import words
from tavt_kit.reports.baselines import better_in_front, fit_rows
from tavt_kit.reports.blocks import Answer, KeyFigure, Section, Text
from tavt_kit.reports.candidates import CandidateView, Estimate, FrontView, points_of, ratio_of, recorded_budget
from tavt_kit.reports.correctness import evaluated_section, failed_checks
from tavt_kit.reports.front import cost_words, export_command
from tavt_kit.reports.latency import benches_section, layers_section
from tavt_kit.reports.records import RecordFile, Records, mapping, number, sequence, text, whole
from tavt_kit.reports.training import ladder_section, learning_section, lowered_dense

_LEADS = {
    "PASS": "The model that {fits} {budget}{where}",
    "PREDICTED": "The model that should {fit} {budget}{where}, by prediction only,",
    "INCONCLUSIVE": "It cannot be told yet whether a model {fits} {budget}{where}: the best that may",
    "FAIL": "Nothing {fits} {budget}{where}: what was chosen",
}

_UNASKED = "Nothing was searched: no budget was asked for, so there is no verdict."
_ALONE = (
    ("bench", benches_section), ("run", ladder_section), ("run", learning_section), ("eval", evaluated_section),
    ("profile", layers_section),
)  # fmt: skip
"""What a folder without a search, a check or a pruning is opened at: the first that it holds, by its own gist."""


def answer(records: Records) -> Answer:
    """What a fit recommends, what a search chose, or what was trained, checked or measured."""
    if fits := records.all("fit"):
        return _of_fit(fits[0])
    if records.all("front"):
        return _of_search(records)
    if records.all("check"):
        return _of_checks(records.entries("check", "checks"))
    if pruned := records.all("prune"):
        return _of_pruning(pruned[0])
    for kind, make in _ALONE:
        section = make(records) if records.all(kind) else None
        if isinstance(section, Section):
            take = _next(records.all(kind)[0].path.parent) if kind == "run" else None
            lead = f"{section.title}: {section.gist}"
            return Answer("", lead, Text.of(_UNASKED), command=take, opens=section.anchor)
    return Answer("", "Nothing to ship yet", Text.of(_UNASKED), opens="missing")


def _of_fit(fit: RecordFile) -> Answer:
    """What to ship and why, in the words of the record."""
    rows, index = fit_rows(fit.body), whole(fit.body, "recommended")
    said, budget = text(fit.body, "advice") or "Nothing was measured.", recorded_budget(fit.body)
    if index is None or not 0 <= index < len(rows):
        lead = f"Nothing to ship: nothing keeps to {words.budget_words(budget)}"
        return Answer("FAIL", lead, Text.of(said), opens="final")
    row, dense = rows[index], rows[0]
    p90 = row.time.p90
    figures = (
        KeyFigure(words.ms_text(p90), "p90 latency", f"budget {words.budget_words(budget)}"),
        _accuracy(row.accuracy, "top-1 on val", f"dense {dense.accuracy}"),
        _accuracy(Estimate.of(mapping(row.record, "test"), "top1"), "top-1 on test"),
        KeyFigure(ratio_of(row.ratio), "speed vs dense f32", f"dense {dense.time}"),
    )
    folder = fit.path.parent / "recommended"
    file = folder / f"model{Path(text(row.record, 'file') or '.onnx').suffix}"
    command = shlex.join(["python", str(folder / "predict.py"), str(file), "photo.jpg"])
    lead = f"Ship {row.name}: {row.accuracy} right, {words.ms_text(p90)}"
    take = (f"To ship, take the folder {folder}; to try it", command)
    why, checked = Text.of(said.removeprefix(f"Ship {row.name}: ")), mapping(fit.body, "check")
    verdict = f"Its check on {text(checked, 'split')} says {text(checked, 'verdict')}: {text(checked, 'reason')}."
    more = (Text.of(verdict, kind="note" if text(checked, "verdict") == "PASS" else "warning"),) if checked else ()
    return Answer(row.verdict or "INCONCLUSIVE", lead, why, more, _known(*figures), take)


def _of_search(records: Records) -> Answer:
    front, folder = records.first("front"), records.all("front")[0].path.parent
    view = FrontView(front)
    pick, budget, target = view.pick, words.budget_words(view.budget), words.target_words(mapping(front, "target"))
    where = f" on {target}" if target else ""
    if pick is None:
        cost = min(filter(None, map(view.cost, view.candidates)), default=None)
        amount = (
            f"{words.ms_text(cost)} ({view.statistic})" if view.is_timed else f"{words.macs_text(cost)} multiply-adds"
        )
        least = f"; the least that a candidate needs is {amount}" if cost is not None else ""
        sentence = f"Nothing fits {budget}{where}{least}; {view.verdict or 'FAIL'}."
        if view.verdict == "INCONCLUSIVE":
            sentence += " Not all was measured; give the search more time."
        return Answer(view.verdict or "FAIL", f"Nothing to ship: nothing keeps to {budget}", Text.of(sentence))
    better = better_in_front(front)
    lead, said = _lead(view, pick), [baseline.sentence for baseline in better]
    whose = (
        "What the search chose is exported by" if better or view.verdict != "PASS" else "Export it, and check the file"
    )
    command = (whose, export_command(view, pick, folder))
    why, figures = _sentence(view, pick, where), _figures(view, pick)
    if better:
        best = max((baseline.row for baseline in better), key=lambda row: row.accuracy.value if row.accuracy else 0.0)
        ships = "Ship" if (best.verdict or view.verdict) == "PASS" else "Look at"
        lead = f"{ships} {best.name}, not what the search chose: {best.accuracy} right, {cost_words(view, best)}"
        if best.kind == "int8":  # the others have no command: they are other weights
            command = ("Export it, and check the file", export_command(view, best, folder))
        why, said = said[0], [f"What the search chose: {why}", *said[1:]]
        figures = _figures(view, best)
    elif view.verdict == "FAIL":
        command = ("Look at what was found", shlex.join(["fgvc-kit", "show", str(folder)]))
    luck = (
        f"It was selected on this very {view.split} split, so a little of that figure is luck; "
        "only a test split that nothing was selected on can tell how much."
    )
    more = (
        *(Text.of(sentence, kind="warning") for sentence in said),
        *(() if view.split == "test" else (Text.of(luck, kind="note"),)),
        *(Text.of(sentence, kind="warning") for sentence in _doubts(front, pick, records)),
    )
    return Answer(view.verdict, lead, Text.of(why), more, figures, command, beaten=bool(better))


def _lead(view: FrontView, pick: CandidateView) -> str:
    """What to do about the choice."""
    budget, speed = words.budget_words(view.budget), view.speedup(pick)
    name = "the dense model" if pick.origin == "dense" else "the chosen schedule"
    faster = f", {words.ratio_text(speed)} as fast as dense" if speed is not None and pick.origin != "dense" else ""
    cost = words.ms_text(view.cost(pick)) if view.is_timed else f"{words.macs_text(pick.macs)} multiply-adds"
    return {
        "PASS": f"Ship {name}: {pick.accuracy} right, {cost}{faster}",
        "PREDICTED": f"Measure before you ship: that it keeps to {budget} is only predicted",
        "INCONCLUSIVE": f"Do not ship yet: whether it keeps to {budget} is not decided",
        "FAIL": f"Nothing to ship: nothing keeps to {budget}",
    }.get(view.verdict, f"The best found: {name}, {pick.accuracy} right, {cost}{faster}")


def _sentence(view: FrontView, pick: CandidateView, where: str) -> str:
    """``The model that fits 8 ms keeps 84.1 % (dense 84.6 %), 2.9× faster; PASS, p90 7.6 ms ± 2 %``, and where."""
    lead = _LEADS.get(view.verdict, "The model chosen for {budget}{where}")
    if not view.budget.limits:
        lead = "The most accurate candidate{where}"
    fits = {"fits": "keeps to", "fit": "keep to"} if view.budget.floors else {"fits": "fits", "fit": "fit"}
    said = lead.format(budget=words.budget_words(view.budget), where=where, **fits)
    accuracy, difference, speedup = pick.accuracy, pick.difference, view.speedup(pick)
    if accuracy is None:
        said += " has an accuracy that is not known"
    else:
        dense = ""
        if view.dense and view.dense.accuracy:
            dense = f" (dense {view.dense.accuracy})"
        elif difference is not None:  # only that is recorded
            dense = f" (dense {words.percent_text(accuracy.value - difference.value)})"
        n = f", {words.n_text(accuracy.n)}" if accuracy.n else ""
        said += f" keeps {accuracy} {words.metric_words(view.metric)}{dense} on the {view.split} split{n}"
    if speedup is not None and pick.origin != "dense":
        said += f", {words.ratio_text(speedup)} {'faster' if speedup >= 1 else 'the speed'}"
    unsteady = "unsteady" if pick.time.steady is False else ""
    return f"{said}; {', '.join(filter(None, (view.verdict, cost_words(view, pick), unsteady)))}."


def _doubts(front: Mapping[str, Any], pick: CandidateView, records: Records) -> list[str]:
    """What stands against the verdict: an unsteady clock, limits that are not decided, files that failed."""
    sentences = [f"Not decided: {text}." for text in sequence(front, "undecided") if isinstance(text, str)]
    time = pick.time
    if time.steady is False and time.p10 is not None and time.p90 is not None:
        load, cores = number(front, "host", "load", 0), len(sequence(front, "host", "affinity"))
        busy = f", with a load of {load:g} on {words.plural(cores, 'CPU')}" if load is not None and cores else ""
        sentences.append(
            f"The times are unsteady (p10 to p90 is {words.ms_text(time.p10)} to {words.ms_text(time.p90)}{busy}): "
            "measure again on a quieter machine before relying on them."
        )
    if lowered := lowered_dense(records):
        sentences.append(lowered)
    return sentences + failed_checks(records, pick.counts)


def _figures(view: FrontView, pick: CandidateView) -> tuple[KeyFigure, ...]:
    dense, latency = view.dense, next(iter(view.budget.of("latency")), None)
    quantile = pick.time.of_statistic(view.statistic) if pick.time.median is not None else None
    figures = [
        KeyFigure(words.ms_text(quantile), view.cost_name, f"budget {words.limit_words(latency)}" if latency else ""),
        _accuracy(pick.accuracy, f"{words.metric_words(view.metric)} on {view.split}"),
    ]
    if pick.origin != "dense":
        figures.append(_loss(pick.difference, f"points vs dense, {view.split}"))
    if dense is not None:
        figures.append(KeyFigure(words.ratio_text(view.speedup(pick)), "speed vs dense", f"dense {dense.time}"))
    if pick.macs and dense is not None and dense.macs:
        share = words.percent_text(pick.macs / dense.macs, 0)
        figures.append(KeyFigure(share, "of the multiply-adds", words.macs_text(pick.macs)))
    return _known(*figures)


def _known(*figures: KeyFigure) -> tuple[KeyFigure, ...]:
    """Those of which the record has a value."""
    return tuple(figure for figure in figures if figure.value != words.DASH)


def _accuracy(estimate: Estimate | None, label: str, beside: str = "") -> KeyFigure:
    interval = f"95 % {estimate.interval}" if estimate and estimate.interval else ""
    n = words.n_text(estimate.n) if estimate and estimate.n else ""
    return KeyFigure(str(estimate or words.DASH), label, ", ".join(filter(None, (interval, n, beside))))


def _loss(difference: Estimate | None, label: str) -> KeyFigure:
    ends = difference.points if difference else ""
    return KeyFigure(points_of(difference), label, f"95 % {ends}, paired" if ends else "")


def _next(folder: Path) -> tuple[str, str]:
    command = ["fgvc-kit", "search", str(folder), "--target", "openvino:cpu", "--budget", "latency=20ms"]
    return "Next, find what keeps to a budget", shlex.join(command)


def _of_checks(entries: Sequence[tuple[Path, Mapping[str, Any]]]) -> Answer:
    """The first file that passed, else the first that did not."""
    passed = [(folder, check) for folder, check in entries if text(check, "verdict") == "PASS"]
    folder, check = (passed or entries or [(Path(), {})])[0]
    name = text(check, "artifact") or "the file"
    lead = f"Ship {name}: it answers as its source does" if passed else f"Do not ship {name}: its check did not pass"
    others = [f"{text(other, 'artifact')} says {text(other, 'verdict')}" for _, other in entries if other is not check]
    beside = f" Beside it: {'; '.join(others)}." if others else ""
    why = Text.of(f"{name}: {text(check, 'reason') or 'the reason is not recorded'}.{beside}")
    split = text(check, "artifact_top1", "split") or "?"
    figures = (
        _accuracy(Estimate.of(mapping(check, "artifact_top1")), f"top-1 on {split}"),
        _loss(Estimate.of(mapping(check, "difference"), "difference"), "points vs its source"),
        KeyFigure(words.percent_text(number(check, "agreement")), "same answers as its source"),
    )
    take = ("Try it", shlex.join(["fgvc-kit", "predict", str(folder / name), "photo.jpg"])) if passed else None
    return Answer(text(check, "verdict") or "", lead, why, (), _known(*figures), take, opens="exported")


def _of_pruning(pruned: RecordFile) -> Answer:
    record, change = pruned.body, Estimate.of(mapping(pruned.body, "difference"), "difference")
    before, after = (number(record, when, "macs") for when in ("before", "after"))
    share = words.percent_text(after / before, 0) if after and before else words.DASH
    figures = (
        KeyFigure(share, "of the multiply-adds", words.macs_text(after)),
        _accuracy(Estimate.of(mapping(record, "after", "top1")), "top-1 on val, every token kept"),
        _loss(change, "points vs the whole model"),
    )
    lead = f"Pruned to {share} of the multiply-adds for {points_of(change)} points"
    return Answer("", lead, Text.of(_UNASKED), (), _known(*figures), _next(pruned.path.parent), opens="provenance")

"""Several searches in one report: refused where their figures cannot stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.errors import RecordError
from tavt_kit.reports import blocks, columns, words
from tavt_kit.reports.answer import answer
from tavt_kit.reports.candidates import CandidateView, FrontView, points_of
from tavt_kit.reports.charts import Mark, front_figure, legend
from tavt_kit.reports.front import cost_words, frame_of, front_table, marks_of, schedule_cell
from tavt_kit.reports.markup import el
from tavt_kit.reports.provenance import COUNTING, facts_of, reproduction_section
from tavt_kit.reports.records import Found, Records, candidates_beside, mapping, sequence, text

Said = blocks.Cell | str
MOST_RUNS = 6
"""As many as can be told apart in one chart."""


class RunRecords:
    """One search by a name of its own: its records and no other search's, its front, and its target in words."""

    def __init__(self, name: str, records: Records) -> None:
        self.name, self.records, self.view = name, records, FrontView(records.first("front"))
        self.target = words.target_words(mapping(self.view.record, "target"))


def runs_of(records: Records, *, across: bool) -> tuple[RunRecords, ...]:
    """The searches among the records, in the order given; with ``across`` of different machines or targets too.

    Raises:
        RecordError: Too many, or of other images, classes or metrics; or, without ``across``, of other machines.
    """
    fronts = records.all("front")
    if len(fronts) > MOST_RUNS:
        raise RecordError(f"a report sets at most {MOST_RUNS} searches side by side, got {len(fronts)}; give fewer")
    for spelled in (lambda path: path.parent.name, lambda path: str(path.parent), str):
        names = [spelled(front.path) or "." for front in fronts]
        if len(set(names)) == len(names):  # else their whole paths tell them apart
            break
    runs = tuple(RunRecords(name, _own(records, front, fronts)) for name, front in zip(names, fronts, strict=True))
    _refuse(runs, "the metric", lambda run: run.view.metric)
    _refuse(runs, "the classes", lambda run: tuple(map(str, sequence(run.view.record, "model", "classes"))))
    _refuse(runs, "the split", lambda run: run.view.split)
    _refuse(
        runs, "the images (the SHA-256 of the split)",
        lambda run: text(run.records.first("split"), "sha256") or text(run.records.first("recipe"), "ties", "split"),
    )  # fmt: skip
    _refuse(runs, "the number of images", lambda run: max(_counts([run]), default=None))
    if not across:
        _refuse(runs, "the target", lambda run: run.target, mixed=True)
        _refuse(runs, "the machine", _machine, mixed=True)
    return runs


def _own(records: Records, front: Found, fronts: Iterable[Found]) -> Records:
    """What lies below the front's folder, and not below that of a search within it."""
    folder = front.path.parent
    others = [one.path.parent for one in fronts if one.path != front.path]
    inner = [other for other in others if other != folder and other.is_relative_to(folder)]

    def is_ours(one: Found) -> bool:
        path = one.path
        return path.is_relative_to(folder) and not any(path.is_relative_to(other) for other in inner)

    found = {kind: tuple(filter(is_ours, several)) for kind, several in records.found.items()} | {"front": (front,)}
    return Records(found, candidates_beside(front.path), (str(folder),), records.steps)


def _refuse(runs: Sequence[RunRecords], what: str, of: Callable[[RunRecords], Any], *, mixed: bool = False) -> None:
    """Refuse two runs that differ in this; what is not recorded cannot differ."""

    def shown(value: object) -> str:
        said = f"{len(value)} ({', '.join(value[:3])}, ...)" if isinstance(value, tuple) else str(value)
        return said if len(said) <= 60 else f"{said[:57]}..."

    known = [(run.name, value) for run in runs if (value := of(run))]
    for name, value in known[1:]:
        first, other = known[0]
        if value != other:
            how = "give `across=True` to set them side by side all the same" if mixed else "make one report each"
            raise RecordError(
                f"the searches of one report need {what} in common, but {first} has {shown(other)} and {name} "
                f"{shown(value)}; {how}"
            )


def _counts(runs: Sequence[RunRecords]) -> set[int]:
    """How many images the candidates' accuracies are of."""
    found = (candidate.accuracy for run in runs for candidate in run.view.candidates)
    return {accuracy.n for accuracy in found if accuracy is not None and accuracy.n}


def _machine(run: RunRecords) -> str | None:
    host = mapping(run.view.record, "host")
    cores = len(sequence(host, "affinity"))
    parts = (text(host, "cpu"), f"{cores} CPUs" if cores else None, text(host, "accelerator"))
    return ", ".join(filter(None, parts)) if parts[0] else None


def compared_report(runs: Sequence[RunRecords]) -> blocks.Report:
    """The page of several runs."""

    def accuracy(run: RunRecords) -> float:
        """Of what it chose; those that chose nothing come last."""
        pick = run.view.pick
        return -1.0 if pick is None or pick.accuracy is None else pick.accuracy.value

    data, where = text(runs[0].records.first("split"), "name"), dict.fromkeys(run.target for run in runs)
    best = sorted(runs, key=accuracy, reverse=True)
    beside = blocks.Section("side-by-side", "Side by side", (_table(runs, best[0]),), "what each search chose")
    first, lead = best[0].view.pick, "None of them found what fits"
    if first is not None:
        lead = f"{best[0].name} is the most accurate: {first.accuracy} right, {cost_words(best[0].view, first)}"
    figures = tuple(
        blocks.KeyFigure(str(pick.accuracy), run.name, f"{run.view.verdict}, {cost_words(run.view, pick)}")
        for run in runs
        if (pick := run.view.pick) is not None and pick.accuracy is not None
    )
    own, again = list[blocks.Section](), list[blocks.Section]()
    for index, run in enumerate(runs):
        said, made = answer(run.records), reproduction_section(run.records)
        table = [front_table(run.view)] if run.view.candidates else []
        own.append(blocks.Section(f"run-{index}", run.name, (said.sentence, *said.more, *table), said.verdict))
        counting = [] if index else [blocks.Text.of(COUNTING, kind="note")]
        facts = blocks.Facts((("Folder", blocks.Code(run.records.folders[0])), *facts_of(run.records)))
        title, content = f"{run.name}: facts and commands", (*counting, facts, *made.blocks)
        again.append(blocks.Section(f"again-{index}", title, content, made.gist))
    return blocks.Report(
        f"{' against '.join(run.name for run in runs)}{f' on {data}' if data else ''}",
        " · ".join(filter(None, (words.plural(len(runs), "search", "searches"), *where))),
        blocks.Answer("", lead, blocks.Text.of(_sentence(best)), _doubts(runs, best), figures, opens=beside.anchor),
        _chart(runs),
        (
            ("Decide", (beside,)),
            ("Understand", tuple(own)),
            ("Reproduce", tuple(again)),
        ),
        f"Made by fgvc-kit report from {', '.join(run.records.folders[0] for run in runs)}.",
    )


def _common(runs: Sequence[RunRecords]) -> Budget | None:
    return runs[0].view.budget if len({run.view.budget for run in runs}) == 1 else None


def _sentence(best: Sequence[RunRecords]) -> str:
    budget, first = _common(best), best[0].view
    said = []
    for run in best:
        view, pick = run.view, run.view.pick
        if pick is None or pick.accuracy is None:
            said.append(f"{run.name} has nothing that fits")
            continue
        asked = "" if budget is not None else f" for {words.budget_words(view.budget)}"
        said.append(f"{run.name} keeps {pick.accuracy}{asked} ({view.verdict}, {cost_words(view, pick)})")
    lead = f"For {words.budget_words(budget)}" if budget is not None else "Each for its own budget"
    return f"{lead}, {words.metric_words(first.metric)} on {first.split}: {'; '.join(said)}."


def _doubts(runs: Sequence[RunRecords], best: Sequence[RunRecords]) -> tuple[blocks.Text, ...]:
    said = []
    a, b = (run.view.pick.accuracy if run.view.pick else None for run in best[:2])
    if a is not None and b is not None and a.low is not None and b.high is not None and a.low <= b.high:
        said.append(
            f"The 95 % intervals of {best[0].name} and {best[1].name} overlap: on these images their accuracies are "
            "not known to differ."
        )
    hosts = dict.fromkeys(text(run.view.record, "host", "cpu") or "" for run in runs)
    targets = dict.fromkeys(run.target for run in runs)
    if len(hosts) > 1 or len(targets) > 1:
        said.append(
            f"These are different machines or targets ({'; '.join(filter(None, (*hosts, *targets)))}): compare what "
            "each reaches there, not their milliseconds with one another."
        )
    return tuple(blocks.Text.of(one, kind="warning") for one in said)


def _chart(runs: Sequence[RunRecords]) -> blocks.Figure | None:
    # Where one of them has no latency, multiply-adds are what they have in common.
    first, timed = runs[0].view, all(run.view.is_timed for run in runs)
    statistic = first.statistic if timed else None
    marks: list[Mark] = []
    dot = el("circle", cx=10, cy=10, r=5)
    entries = []
    for letter, run in zip("abcdef", runs, strict=False):
        entries.append((dot, f"mark front series-{letter}", run.name))
        for mark in marks_of(run.view, statistic):
            name, lines = run.name if mark.kind == "chosen" else "", (run.name, *mark.lines)
            marks.append(replace(mark, label=name, lines=lines, series=letter, key=""))
    if not marks:
        return None
    entries.append((el("circle", cx=10, cy=10, r=7), "ring", "chosen"))
    frame = frame_of(_common(runs) or Budget(), first.metric, first.split, statistic)
    name = f"{frame.y_title} against {frame.x_title} of {len(runs)} searches"
    caption = "Each line is what a front promises at every cost; what is ringed was chosen."
    return front_figure(marks, frame, name, caption, key=legend(entries))


def _table(runs: Sequence[RunRecords], best: RunRecords) -> blocks.Table:
    def chosen(tell: Callable[[FrontView, CandidateView], Said]) -> Callable[[RunRecords], Said]:
        """The cell of what a search chose; a dash where it chose nothing."""
        return lambda run: tell(run.view, run.view.pick) if run.view.pick else words.DASH

    first, n = runs[0].view, _counts(runs)
    on = f", {words.n_text(n.pop())}" if len(n) == 1 else ""
    metric = blocks.Column(words.metric_words(first.metric), hint=f"{first.split}, 95 %")
    return blocks.Table.of(
        runs,
        f"What each search chose, on the same images{on}; the most accurate is marked.",
        ("Search", lambda run: blocks.Cell(run.name, run.target)),
        ("Budget", lambda run: words.budget_words(run.view.budget)),
        (metric, chosen(lambda view, pick: columns.accuracy(pick.accuracy))),
        (blocks.Column("Dense"), chosen(lambda view, _: str((view.dense and view.dense.accuracy) or words.DASH))),
        (columns.AGAINST_DENSE, chosen(lambda view, pick: points_of(pick.difference))),
        (blocks.Column("Cost"), chosen(cost_words)),
        (columns.SPEED, chosen(lambda view, pick: words.ratio_text(view.speedup(pick)))),
        ("Tokens kept after each layer", chosen(schedule_cell)),
        ("Verdict", lambda run: columns.verdict(run.view.verdict or ("" if run.view.pick else "FAIL"))),
        strong=[runs.index(best)],
    )

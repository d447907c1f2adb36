"""Several searches in one report: refused where their figures cannot stand side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.errors import RecordError
from tavt_kit.reports.blocks import (
    AGAINST_DENSE,
    SPEED,
    VERDICT,
    Block,
    Cell,
    Code,
    Column,
    Facts,
    Figure,
    Headline,
    KeyFigure,
    Report,
    Section,
    Table,
    Text,
    word_columns,
)
from tavt_kit.reports.candidates import FrontView, accuracy_cell, difference_cell, verdict_cell
from tavt_kit.reports.charts import Frame, Mark, front_chart, legend, schedule_bar
from tavt_kit.reports.front import front_table, marks_of
from tavt_kit.reports.markup import el
from tavt_kit.reports.picker import cost_words
from tavt_kit.reports.provenance import COUNTING, facts_of, reproduction_section
from tavt_kit.reports.records import Found, Records, candidates_beside, mapping, sequence, text
from tavt_kit.reports.verdict import headline
from tavt_kit.reports.words import (
    DASH,
    budget_words,
    limit_words,
    metric_words,
    n_text,
    plural,
    ratio_text,
    target_words,
)

__all__ = ["MOST_RUNS", "RunRecords", "compared_report", "runs_of"]


MOST_RUNS = 6
"""As many as can be told apart in one chart."""


@dataclass(frozen=True, slots=True)
class RunRecords:
    """One search.

    Args:
        name: What it is called, unlike the others.
        records: Its own, and no other search's.
    """

    name: str
    records: Records

    @property
    def front(self) -> Mapping[str, Any]:
        """Its ``front.json``."""
        return self.records.first("front")


def runs_of(records: Records, *, across: bool) -> tuple[RunRecords, ...]:
    """The searches among the records, in the order given.

    Args:
        records: Of all of them.
        across: Whether they may be of different machines or targets.

    Raises:
        RecordError: Too many, or of other pictures, classes or metrics; or, without ``across``, of other machines.
    """
    fronts = records.all("front")
    if len(fronts) > MOST_RUNS:
        raise RecordError(f"a report sets at most {MOST_RUNS} searches side by side, got {len(fronts)}; give fewer")
    names = _names([one.path for one in fronts])
    runs = tuple(RunRecords(name, _own(records, front, fronts)) for name, front in zip(names, fronts, strict=True))
    _refuse(runs, "the metric", lambda run: FrontView.of(run.front).metric)
    _refuse(runs, "the classes", lambda run: tuple(map(str, sequence(run.front, "model", "classes"))) or None)
    _refuse(runs, "the split", lambda run: FrontView.of(run.front).split)
    _refuse(runs, "the pictures (the SHA-256 of the split)", _pictures)
    _refuse(runs, "the number of pictures", _number)
    if not across:
        _refuse(runs, "the target", lambda run: target_words(mapping(run.front, "target")) or None, mixed=True)
        _refuse(runs, "the machine", _machine, mixed=True)
    return runs


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names; where two are the same, the whole paths."""
    for spelled in (lambda path: path.parent.name, lambda path: str(path.parent), str):
        names = [spelled(path) or "." for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _own(records: Records, front: Found, fronts: Iterable[Found]) -> Records:
    """What lies below the front's folder, and not below that of a search within it."""
    folder = front.path.parent
    others = [one.path.parent for one in fronts if one.path != front.path]
    inner = [other for other in others if other != folder and other.is_relative_to(folder)]

    def is_ours(one: Found) -> bool:
        path = one.path
        return path.is_relative_to(folder) and not any(path.is_relative_to(other) for other in inner)

    found = {
        kind: (front,) if kind == "front" else tuple(one for one in several if is_ours(one))
        for kind, several in records.found.items()
    }
    return Records(found, candidates_beside(front.path), (str(folder),), records.steps)


def _refuse(runs: Sequence[RunRecords], what: str, of: Any, *, mixed: bool = False) -> None:
    """Refuse two runs that differ in this; what is not recorded cannot differ."""
    known = [(run, value) for run in runs if (value := of(run)) is not None]
    for run, value in known[1:]:
        first, other = known[0]
        if value != other:
            how = "give `across=True` to set them side by side all the same" if mixed else "make one report each"
            raise RecordError(
                f"the searches of one report need {what} in common, but {first.name} has {_shown(other)} and "
                f"{run.name} {_shown(value)}; {how}"
            )


def _shown(value: object) -> str:
    words = f"{len(value)} ({', '.join(value[:3])}, ...)" if isinstance(value, tuple) else str(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def _pictures(run: RunRecords) -> str | None:
    return text(run.records.first("split"), "sha256") or text(run.records.first("recipe"), "ties", "split")


def _number(run: RunRecords) -> int | None:
    view = FrontView.of(run.front)
    counts = {one.accuracy.n for one in view.candidates if one.accuracy is not None}
    return max((n for n in counts if n is not None), default=None)


def _machine(run: RunRecords) -> str | None:
    host = mapping(run.front, "host")
    cpu = text(host, "cpu")
    if cpu is None:
        return None
    accelerator = text(host, "accelerator")
    cores = len(sequence(host, "affinity"))
    return ", ".join(part for part in (cpu, f"{cores} CPUs" if cores else None, accelerator) if part)


_SERIES = "abcdef"


def compared_report(runs: Sequence[RunRecords]) -> Report:
    """The page of several runs."""
    views = [FrontView.of(run.front) for run in runs]
    data = text(runs[0].records.first("split"), "name")
    title = f"{' against '.join(run.name for run in runs)}{f' on {data}' if data else ''}"
    where = dict.fromkeys(target_words(mapping(run.front, "target")) for run in runs)
    sections = [Section("side-by-side", "Side by side", (*_figure(runs, views), _table(runs, views)))]
    sections += [_each(place, run, view) for place, (run, view) in enumerate(zip(runs, views, strict=True))]
    return Report(
        title,
        " · ".join(part for part in (plural(len(runs), "search", "searches"), *where) if part),
        Headline("", Text.of(_sentence(runs, views)), _doubts(runs, views), _figures(runs, views)),
        tuple(sections),
        f"Made by fgvc-kit report from {', '.join(run.records.folders[0] for run in runs)}.",
    )


def _best(views: Sequence[FrontView]) -> list[int]:
    """Places of the runs by falling accuracy of what they chose; those that chose nothing last."""

    def value(place: int) -> float:
        pick = views[place].pick
        return -1.0 if pick is None or pick.accuracy is None else pick.accuracy.value

    return sorted(range(len(views)), key=lambda place: -value(place))


def _common(views: Sequence[FrontView]) -> Budget | None:
    return views[0].budget if len({view.budget for view in views}) == 1 else None


def _sentence(runs: Sequence[RunRecords], views: Sequence[FrontView]) -> str:
    budget = _common(views)
    lead = f"For {budget_words(budget)}" if budget is not None else "Each for its own budget"
    said = []
    for place in _best(views):
        view, pick = views[place], views[place].pick
        if pick is None or pick.accuracy is None:
            said.append(f"{runs[place].name} has nothing that fits")
            continue
        asked = "" if budget is not None else f" for {budget_words(view.budget)}"
        said.append(f"{runs[place].name} keeps {pick.accuracy}{asked} ({view.verdict}, {cost_words(view, pick)})")
    return f"{lead}, {metric_words(views[0].metric)} on {views[0].split}: {'; '.join(said)}."


def _doubts(runs: Sequence[RunRecords], views: Sequence[FrontView]) -> tuple[Text, ...]:
    texts = []
    first, second = _best(views)[:2]
    a, b = (views[place].pick for place in (first, second))
    if a and b and a.accuracy and b.accuracy and a.accuracy.low is not None and b.accuracy.high is not None:
        if a.accuracy.low <= b.accuracy.high:
            texts.append(
                Text.of(
                    f"The 95 % intervals of {runs[first].name} and {runs[second].name} overlap: on these pictures "
                    "their accuracies are not known to differ.",
                    kind="warning",
                )
            )
    hosts = dict.fromkeys(text(run.front, "host", "cpu") or "" for run in runs)
    targets = dict.fromkeys(target_words(mapping(run.front, "target")) for run in runs)
    if len(hosts) > 1 or len(targets) > 1:
        words = "; ".join(name for name in (*hosts, *targets) if name)
        texts.append(
            Text.of(
                f"These are different machines or targets ({words}): compare what each reaches there, not their "
                "milliseconds with one another.",
                kind="warning",
            )
        )
    return tuple(texts)


def _figures(runs: Sequence[RunRecords], views: Sequence[FrontView]) -> tuple[KeyFigure, ...]:
    return tuple(
        KeyFigure(str(view.pick.accuracy), run.name, f"{view.verdict}, {cost_words(view, view.pick)}")
        for run, view in zip(runs, views, strict=True)
        if view.pick is not None and view.pick.accuracy is not None
    )


def _figure(runs: Sequence[RunRecords], views: Sequence[FrontView]) -> list[Block]:
    # Where one of them has no latency, multiply-adds are what they have in common.
    timed = all(view.is_timed for view in views)
    marks: list[Mark] = []
    for letter, run, view in zip(_SERIES, runs, views, strict=False):
        for mark in marks_of(view, (), timed=timed):
            name = run.name if mark.kind == "chosen" else ""
            lines = (run.name, *mark.lines)
            marks.append(replace(mark, label=name, lines=lines, series=letter, key="", predicted_x=None))
    if not marks:
        return []
    budget = _common(views)
    limit = next(iter(budget.of("latency" if timed else "flops")), None) if budget is not None else None
    metric = f"{metric_words(views[0].metric)} on {views[0].split}"
    frame = Frame(
        x_title="latency, ms" if timed else "multiply-adds, G",
        y_title=f"{metric}, %",
        ceiling=None if limit is None else limit.value * (1.0 if timed else 1e-9),
        ceiling_text=f"budget {limit_words(limit)}" if limit else "",
    )
    dot = el("circle", cx=10, cy=10, r=5)
    entries = [(dot, f"mark front series-{letter}", run.name) for letter, run in zip(_SERIES, runs, strict=False)]
    entries.append((el("circle", cx=10, cy=10, r=7), "ring", "chosen"))
    name = f"{metric} against {'latency' if timed else 'multiply-adds'} of {len(runs)} searches"
    caption = "Each line is what a front promises at every cost; what is ringed was chosen."
    return [Figure(name, front_chart(marks, frame, name), caption, legend(entries))]


def _table(runs: Sequence[RunRecords], views: Sequence[FrontView]) -> Table:
    columns = (
        *word_columns("Search", "Budget"),
        Column(metric_words(views[0].metric), hint=f"{views[0].split}, 95 %"),
        Column("Dense"),
        AGAINST_DENSE,
        Column("Cost"),
        SPEED,
        *word_columns("Tokens kept after each layer"),
        VERDICT,
    )
    best = _best(views)[0]
    rows = tuple(_row(run, view) for run, view in zip(runs, views, strict=True))
    n = {one.accuracy.n for view in views for one in view.candidates if one.accuracy and one.accuracy.n}
    on = f", {n_text(n.pop())}" if len(n) == 1 else ""
    return Table(columns, rows, f"What each search chose, on the same pictures{on}; the most accurate is marked.",
                 frozenset({best}))  # fmt: skip


def _row(run: RunRecords, view: FrontView) -> tuple[Cell, ...]:
    pick, where = view.pick, target_words(mapping(run.front, "target"))
    head = (Cell(run.name, where), Cell(budget_words(view.budget)))
    if pick is None:
        return (*head, *(Cell(DASH) for _ in range(6)), Cell(view.verdict or "FAIL", badge=True))
    bar = schedule_bar(pick.counts, view.tokens, f"tokens: {pick.schedule}") if pick.counts else None
    accuracy, dense = pick.accuracy, view.dense.accuracy if view.dense else None
    return (
        *head,
        accuracy_cell(accuracy),
        Cell(DASH if dense is None else str(dense)),
        replace(difference_cell(pick.difference), small=""),
        Cell(cost_words(view, pick)),
        Cell(ratio_text(view.speedup(pick))),
        Cell(pick.schedule or DASH, picture=bar, code=True),
        verdict_cell(view.verdict),
    )


def _each(place: int, run: RunRecords, view: FrontView) -> Section:
    """What one search says of itself, and how it was measured."""
    found = headline(run.records)
    blocks: list[Block] = [found.sentence, *found.more]
    if view.candidates:
        blocks.append(replace(front_table(view), folded=True, keys=()))
    if place == 0:
        blocks.append(Text.of(COUNTING, kind="note"))
    blocks.append(Facts((("Folder", Code(run.records.folders[0])), *facts_of(run.records))))
    blocks += reproduction_section(run.records).blocks
    return Section(f"run-{place}", run.name, tuple(blocks))

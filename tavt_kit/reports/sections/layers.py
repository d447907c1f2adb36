"""Where the time goes: each layer's milliseconds, predicted and measured, and how far either can be trusted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.part_names import HEAD, OTHER, STEM, part_words
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import TavtError
from tavt_kit.reports.blocks import Block, Cell, Code, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.gather import Records
from tavt_kit.reports.layer_chart import Bars, bars_legend, layer_chart
from tavt_kit.reports.layer_times import LayerView, Profiled, latency_table, layer_views
from tavt_kit.reports.numbers import DASH, ms_text, percent_text, points_text, ratio_text
from tavt_kit.reports.views import TimeView
from tavt_kit.reports.words import plural

__all__ = ["layers_section"]

_ANCHOR, _TITLE = "layers", "Where the time goes"


def layers_section(records: Records) -> Section | Missing:
    """The latency table of ``profile.json`` and what profiles measured, for the dense and the chosen schedule."""
    try:
        table = latency_table(records)
    except TavtError as error:
        return Section(_ANCHOR, _TITLE, (Text.of(f"The latency table cannot be read: {error}.", kind="warning"),))
    views = layer_views(records, table)
    if not views:
        return Missing(_TITLE, "fgvc-kit profile MODEL")
    where = views[0].where
    names = max((view.names() for view in views), key=len)
    title = f"milliseconds of each layer on {where}"
    bars = _bars(views)
    blocks: list[Block] = [
        Text.of(_sentence(views, where)),
        Figure(title, layer_chart(names, bars, title), "", bars_legend(bars)),
        _parts_table(names, views),
        *_sums(views),
        *_profile_note(views, records, table),
    ]
    if table is not None:
        blocks.append(Text.of(_trust(table), kind="note"))
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def _bars(views: Sequence[LayerView]) -> list[Bars]:
    found = []
    for view, kind in zip(views, "ab", strict=False):
        if view.predicted is not None:
            found.append(Bars(f"{view.name}, predicted", kind, False, view.predicted))
        if view.profiled is not None:
            found.append(Bars(f"{view.name}, measured", kind, True, view.profiled.parts))
    return found


def _sentence(views: Sequence[LayerView], where: str) -> str:
    """By the measured parts where there are any, else by the predicted ones."""
    first, *others = views
    measured = all(view.profiled for view in views)
    parts = [view.profiled.parts if measured and view.profiled else view.predicted or {} for view in views]
    sums = [sum(one.values()) for one in parts]
    around = percent_text((parts[0].get(STEM, 0.0) + parts[0].get(HEAD, 0.0)) / sums[0], 0)
    way = "measured part by part" if measured else "predicted by the sum of its parts"
    text = f"On {where} the {first.name} model takes {ms_text(sums[0])}, {way}, {around} of it outside the layers."
    if not others:
        return text
    return f"{text} The chosen schedule takes {ms_text(sums[1])}, {ratio_text(sums[0] / sums[1])} as fast."


def _parts_table(names: Sequence[str], views: Sequence[LayerView]) -> Table:
    """Every part of every model; the picture in numbers."""
    columns, chosen = [Column("Part", numeric=False)], next((one for one in views if one.name == "chosen"), None)
    shown = []
    for view in views:
        ways = (("predicted", view.predicted), ("measured", view.profiled.parts if view.profiled else None))
        for way, parts in ways:
            if parts is not None:
                columns.append(Column(view.name.capitalize(), hint=way))
                shown.append(parts)
    if chosen is not None:
        columns += [Column("Tokens in"), Column("Tokens kept")]
    rows = []
    for name in names:
        cells = [Cell(part_words(name))]
        cells += [Cell(ms_text(parts.get(name))) for parts in shown]
        if chosen is not None:
            entering = (views[0].counts[0], *chosen.counts)
            inside = name.isdigit()
            cells += [Cell(str(counts[int(name)]) if inside else "") for counts in (entering, chosen.counts)]
        rows.append(tuple(cells))
    sums = [Cell("sum"), *(Cell(ms_text(sum(parts.values()))) for parts in shown)]
    rows.append((*sums, *(Cell("") for _ in columns[len(sums) :])))
    caption = "Milliseconds of each part: predicted by the latency table, measured by a profile."
    return Table(tuple(columns), tuple(rows), caption, strong=frozenset({len(rows) - 1}), folded=True)


def _sums(views: Sequence[LayerView]) -> list[Block]:
    """The sums of the parts beside whole runs without any profile."""
    rows = []
    for view in views:
        if view.predicted is not None and view.time is not None:
            rows.append(_sum_row(f"{view.name}, predicted", sum(view.predicted.values()), None, view.time))
        if view.profiled is not None:
            rows.append(
                _sum_row(f"{view.name}, measured", view.profiled.sum_ms, view.profiled.run_ms, view.profiled.time)
            )
    columns = (
        Column("Parts", numeric=False),
        Column("Sum of the parts"),
        Column("Profiled run"),
        Column("Plain run", hint="median, 95 %"),
        Column("Sum off by"),
    )
    caption = (
        "The parts together beside whole runs without a profile: those of the search beside predictions, those of the "
        "same measurement beside profiles; each at the speed the machine had then."
    )
    return [Table(columns, tuple(rows), caption)] if rows else []


def _sum_row(name: str, total: float, run_ms: float | None, time: TimeView | None) -> tuple[Cell, ...]:
    median = None if time is None else time.median
    off = DASH if not median else f"{points_text((total - median) / median)}\u00a0%"
    doubt = time.doubt if time is not None and median is not None else ""
    return Cell(name), Cell(ms_text(total)), Cell(ms_text(run_ms)), Cell(ms_text(median), doubt), Cell(off)


def _profile_note(views: Sequence[LayerView], records: Records, table: LatencyTable | None) -> list[Text]:
    """How the measured parts came about; where there are none, the command that measures them."""
    known = [view.profiled for view in views if view.profiled is not None]
    if known:
        return [Text.of(_how(known), kind="note")]
    if table is None or not records.folders or any(view.schedule != counts_text(view.counts) for view in views):
        return []
    schedules = " ".join(f"--schedule {'dense' if view.name == 'dense' else view.schedule}" for view in views)
    folder = shlex.quote(records.folders[0])
    command = f"fgvc-kit bench {folder} {schedules} --target {table.target} --layers"
    said = "These are predictions; the layers of whole runs are measured by "
    return [Text.of(said, Code(command, command=True), ".", kind="note")]


def _how(known: Sequence[Profiled]) -> str:
    other = max(one.parts.get(OTHER, 0.0) / one.sum_ms for one in known)
    placed = max(one.placed_ms / one.sum_ms for one in known)
    runs = min(one.runs or 0 for one in known)
    return (
        f"Measured parts are of {runs} runs under the runtime's own profile, which slows a run; they are scaled to "
        f"nothing. Up to {percent_text(placed)} of a sum is of operations that name no layer and were counted with "
        f"what they read from; {percent_text(other)} could be told to belong to none (other)."
    )


def _trust(table: LatencyTable) -> str:
    tested = table.held_out
    if not tested or table.mean_error is None or table.worst_error is None:
        return "This table was not tested against whole runs of other schedules."
    schedules = plural(len(tested), "schedule")
    return (
        f"Predicted from parts timed one by one in {table.seconds:.0f} s, then tested against whole runs of "
        f"{schedules} that had no part in it: off by {percent_text(table.mean_error)} on average, "
        f"{percent_text(table.worst_error)} at worst, at the speed the machine had while they ran."
    )

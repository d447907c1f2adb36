"""Where the time goes: each layer's milliseconds by the latency table, and how far the table can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from tavt_kit.errors import TavtError
from tavt_kit.latency_table import LatencyTable
from tavt_kit.reports.blocks import Block, Cell, Column, Figure, Missing, Section, Table, Text
from tavt_kit.reports.choice import FrontView
from tavt_kit.reports.gather import Records
from tavt_kit.reports.layer_chart import layer_chart
from tavt_kit.reports.legend import legend
from tavt_kit.reports.markup import Element, el
from tavt_kit.reports.numbers import ms_text, percent_text, points_text, ratio_text
from tavt_kit.reports.views import mapping
from tavt_kit.reports.words import plural, target_words
from tavt_kit.schedule import TokenSchedule

__all__ = ["layers_section"]

_ANCHOR, _TITLE = "layers", "Where the time goes"


def layers_section(records: Records) -> Section | Missing:
    """The latency table of ``profile.json``, for the dense and the chosen schedule."""
    profile = records.first("profile")
    if not profile:
        return Missing(_TITLE, "fgvc-kit profile MODEL")
    try:
        table = LatencyTable.from_record({name: profile[name] for name in profile if name not in ("schema", "version")})
        dense = table.parts(TokenSchedule.dense(table.tokens, table.layers))
    except TavtError as error:
        return Section(_ANCHOR, _TITLE, (Text.of(f"The latency table cannot be read: {error}.", kind="warning"),))
    schedule = _chosen(records, table)
    chosen = None if schedule is None else table.parts(schedule)
    names = ("stem", *(str(layer) for layer in range(table.layers)), "head")
    where = target_words(table.target.as_record())
    title = f"milliseconds of each layer on {where}"
    blocks: list[Block] = [
        Text.of(_sentence(dense, chosen, where)),
        Figure(title, layer_chart(names, dense, chosen, title), "", _legend(chosen is not None)),
        _table(names, table, schedule, dense, chosen),
        *_measured(records, table, schedule),
        Text.of(_trust(table), kind="note"),
    ]
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def _chosen(records: Records, table: LatencyTable) -> TokenSchedule | None:
    """The chosen schedule, if the table is of its model."""
    front = records.first("front")
    pick = FrontView.of(front).pick if front else None
    if pick is None:
        return None
    try:
        schedule = TokenSchedule(pick.counts)
        schedule.check(tokens=table.tokens, layers=table.layers, prefix=table.prefix)
    except TavtError:
        return None
    return schedule


def _sentence(dense: Sequence[float], chosen: Sequence[float] | None, where: str) -> str:
    around = percent_text((dense[0] + dense[-1]) / sum(dense), 0)
    text = (
        f"On {where} the dense model takes {ms_text(sum(dense))} by the sum of its parts, {around} of it outside the "
        "layers."
    )
    if chosen is None:
        return text
    speed = ratio_text(sum(dense) / sum(chosen))
    return f"{text} The chosen schedule takes {ms_text(sum(chosen))}: {speed} as fast by this table."


def _measured(records: Records, table: LatencyTable, schedule: TokenSchedule | None) -> list[Block]:
    """The sums of the parts beside whole passes measured on the target, where the search measured there."""
    front = records.first("front")
    view = FrontView.of(front) if front else None
    if view is None or target_words(mapping(front, "target")) != target_words(table.target.as_record()):
        return []
    rows = []
    for name, one, counts in (
        ("dense", view.dense, TokenSchedule.dense(table.tokens, table.layers)),
        ("chosen", view.pick, schedule),
    ):
        if one is None or counts is None or one.time is None or one.time.median is None:
            continue
        total = sum(table.parts(counts))
        off = (total - one.time.median) / one.time.median
        cells = (Cell(name), Cell(ms_text(total)), Cell(ms_text(one.time.median), one.time.doubt))
        rows.append((*cells, Cell(f"{points_text(off)}\u00a0%")))
    columns = (Column("Schedule", numeric=False), Column("Sum of the parts"), Column("Measured", hint="median, 95 %"))
    caption = "Predicted by the table and measured end to end by the search, at the speed the machine had each time."
    return [Table((*columns, Column("Off by")), tuple(rows), caption)] if rows else []


def _legend(both: bool) -> Element:
    square = el("rect", x=3, y=3, width=14, height=14)
    entries = [(square, "bar-a", "dense"), (square, "bar-b", "chosen")]
    return legend(entries if both else entries[:1])


def _table(
    names: Sequence[str],
    table: LatencyTable,
    schedule: TokenSchedule | None,
    dense: Sequence[float],
    chosen: Sequence[float] | None,
) -> Table:
    columns = [Column("Part", numeric=False), Column("Dense")]
    if schedule is not None:
        columns += [Column("Chosen"), Column("Tokens in"), Column("Tokens kept")]
    rows = []
    for index, name in enumerate(names):
        cells = [Cell(f"layer {name}" if name.isdigit() else name), Cell(ms_text(dense[index]))]
        if schedule is not None and chosen is not None:
            counts = (table.tokens, table.tokens, *schedule.counts, schedule.counts[-1])
            inside = 1 <= index <= table.layers
            cells.append(Cell(ms_text(chosen[index])))
            cells += [Cell(str(counts[index]) if inside else ""), Cell(str(counts[index + 1]) if inside else "")]
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), "Milliseconds of each part, by the latency table.", folded=True)


def _trust(table: LatencyTable) -> str:
    tested = table.held_out
    if not tested or table.mean_error is None or table.worst_error is None:
        return "This table was not tested against whole runs of other schedules."
    schedules = plural(len(tested), "schedule")
    return (
        f"Measured part by part in {table.seconds:.0f} s, then tested against whole runs of {schedules} that had no "
        f"part in it: off by {percent_text(table.mean_error)} on average, {percent_text(table.worst_error)} at worst, "
        "at the speed the machine had while they ran."
    )

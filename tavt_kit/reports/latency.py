"""Where the time goes: each layer's predicted milliseconds, and what was measured side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tavt_kit.core.latency_table import LatencyTable
from tavt_kit.core.part_names import HEAD, STEM, part_names, part_words
from tavt_kit.core.schedule import TokenSchedule, counts_text
from tavt_kit.errors import TavtError
from tavt_kit.reports.blocks import (
    MACS,
    MEDIAN,
    P90,
    Block,
    Cell,
    Column,
    Figure,
    Missing,
    Section,
    Table,
    Text,
    word_columns,
)
from tavt_kit.reports.candidates import CandidateView, FrontView, TimeView, time_cells
from tavt_kit.reports.charts import Bars, bars_legend, layer_chart
from tavt_kit.reports.records import Found, Records, mapping, number, sequence, text, whole
from tavt_kit.reports.words import (
    DASH,
    bytes_text,
    macs_text,
    ms_text,
    percent_text,
    plural,
    points_text,
    ratio_text,
    significant,
    target_words,
)

__all__ = ["LayerView", "benches_section", "latency_table", "layer_views", "layers_section"]


@dataclass(frozen=True, slots=True)
class LayerView:
    """One model of the section.

    Args:
        name: ``dense`` or ``chosen``.
        counts: Tokens kept after each layer.
        schedule: The same as text.
        parts: Milliseconds by the names of the parts, predicted by the table.
        time: Whole runs, where the search measured them on the table's target.
    """

    name: str
    counts: tuple[int, ...]
    schedule: str
    parts: Mapping[str, float]
    time: TimeView | None


def latency_table(records: Records) -> LatencyTable | None:
    """The table of ``profile.json``, if there is one.

    Raises:
        TavtError: It cannot be read.
    """
    profile = records.first("profile")
    if not profile:
        return None
    return LatencyTable.from_record({name: profile[name] for name in profile if name not in ("schema", "version")})


def layer_views(records: Records, table: LatencyTable) -> tuple[LayerView, ...]:
    """The dense model and the chosen one, as far as the table is of them.

    Args:
        records: Records of one run.
        table: Latency table of the run.
    """
    front = records.first("front")
    timed = bool(front) and target_words(mapping(front, "target")) == target_words(table.target.as_record())
    views = []
    for name, one in _models(FrontView.of(front) if front else None, table):
        parts = None if one.genes else _predicted(table, one.counts)
        if parts is not None:
            views.append(LayerView(name, one.counts, one.schedule, parts, one.time if timed else None))
    return tuple(views)


def _models(view: FrontView | None, table: LatencyTable) -> Iterator[tuple[str, CandidateView]]:
    dense, counts = None if view is None else view.dense, (table.model.layout.tokens,) * table.model.layout.layers
    if dense is None or dense.counts != counts:
        dense = CandidateView.of({"schedule": counts, "macs": table.model.macs}, "")
    yield "dense", dense
    pick = None if view is None else view.pick
    if pick is not None and pick.schedule != dense.schedule and len(pick.counts) == len(dense.counts):
        yield "chosen", pick


def _predicted(table: LatencyTable, counts: tuple[int, ...]) -> dict[str, float] | None:
    """By the table; ``None`` where it is of another model."""
    try:
        parts = table.parts(TokenSchedule(counts))
    except TavtError:
        return None
    return dict(zip(part_names(table.model.layout.layers), parts, strict=True)) if sum(parts) > 0 else None


def layers_section(records: Records) -> Section | Missing:
    """The latency table of ``profile.json``, for the dense and the chosen schedule."""
    try:
        table = latency_table(records)
    except TavtError as error:
        return Section(
            "layers", "Where the time goes", (Text.of(f"The latency table cannot be read: {error}.", kind="warning"),)
        )
    views = () if table is None else layer_views(records, table)
    if table is None or not views:
        return Missing("Where the time goes", "fgvc-kit profile MODEL")
    names, where = part_names(table.model.layout.layers), target_words(table.target.as_record())
    title = f"milliseconds of each layer on {where}"
    bars = [Bars(view.name, kind, view.parts) for view, kind in zip(views, "ab", strict=False)]
    blocks: list[Block] = [
        Text.of(_sentence(views, where)),
        Figure(title, layer_chart(names, bars, title), "", bars_legend(bars)),
        _parts_table(names, views),
        *_sums(views),
        Text.of(_trust(table), kind="note"),
    ]
    return Section("layers", "Where the time goes", tuple(blocks))


def _sentence(views: Sequence[LayerView], where: str) -> str:
    first, *others = views
    sums = [sum(view.parts.values()) for view in views]
    around = percent_text((first.parts[STEM] + first.parts[HEAD]) / sums[0], 0)
    text = (
        f"On {where} the {first.name} model takes {ms_text(sums[0])}, predicted by the sum of its parts, {around} of "
        "it outside the layers."
    )
    if not others:
        return text
    return f"{text} The chosen schedule takes {ms_text(sums[1])}, {ratio_text(sums[0] / sums[1])} as fast."


def _parts_table(names: Sequence[str], views: Sequence[LayerView]) -> Table:
    """Every part of every model; the picture in numbers."""
    chosen = next((one for one in views if one.name == "chosen"), None)
    columns = [*word_columns("Part"), *(Column(view.name.capitalize(), hint="predicted") for view in views)]
    if chosen is not None:
        columns += [Column("Tokens in"), Column("Tokens kept")]
    rows = []
    for name in names:
        cells = [Cell(part_words(name)), *(Cell(ms_text(view.parts[name])) for view in views)]
        if chosen is not None:
            entering = (views[0].counts[0], *chosen.counts)
            inside = name.isdigit()
            cells += [Cell(str(counts[int(name)]) if inside else "") for counts in (entering, chosen.counts)]
        rows.append(tuple(cells))
    sums = [Cell("sum"), *(Cell(ms_text(sum(view.parts.values()))) for view in views)]
    rows.append((*sums, *(Cell("") for _ in columns[len(sums) :])))
    caption = "Milliseconds of each part, predicted by the latency table."
    return Table(tuple(columns), tuple(rows), caption, strong=frozenset({len(rows) - 1}), folded=True)


def _sums(views: Sequence[LayerView]) -> list[Table]:
    """The sums of the parts beside whole runs, where there are any."""
    rows = []
    for view in views:
        median = None if view.time is None else view.time.median
        if view.time is not None and median is not None:
            total = sum(view.parts.values())
            off = f"{points_text((total - median) / median)}\u00a0%"
            rows.append((Cell(view.name), Cell(ms_text(total)), Cell(ms_text(median), view.time.doubt), Cell(off)))
    columns = (
        *word_columns("Parts"),
        Column("Sum of the parts"),
        Column("Whole run", hint="median, 95 %"),
        Column("Sum off by"),
    )
    caption = "The parts together beside whole runs of the search; each at the speed the machine had then."
    return [Table(columns, tuple(rows), caption)] if rows else []


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


def benches_section(records: Records) -> Section | Missing:
    """A table for each ``bench.json``."""
    benches = [found for found in records.all("bench") if sequence(found.body, "candidates")]
    if not benches:
        return Missing("Things measured side by side", "fgvc-kit bench THING...")
    blocks: list[Block] = []
    for found in benches:
        blocks += [_table(found, len(benches) > 1), Text.of(_protocol(found.body), kind="note")]
    return Section("bench", "Measured side by side", tuple(blocks))


def _table(found: Found, named: bool) -> Table:
    rows = [row for row in sequence(found.body, "candidates") if isinstance(row, Mapping)]
    columns = (
        *word_columns("Candidate", "Ran as"),
        MACS,
        MEDIAN,
        P90,
        Column("p99"),
        Column("Images/s"),
        Column("GFLOP/s", hint="of this machine's peak"),
        Column("Memory", hint="at most"),
        Column("Speed", hint="paired, 95 %"),
        Column("Gain realised", hint="of the MACs saved"),
    )
    which = f"{found.path.parent.name}/{found.path.name}: " if named else ""
    reference = text(found.body, "reference")
    against = f"; speed is against {reference}" if reference else ""
    return Table(columns, tuple(_row(row) for row in rows), f"{which}Interleaved in random order{against}.")


def _row(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    counts = [count for count in sequence(row, "schedule") if isinstance(count, int)]
    size = number(row, "size_bytes")
    small = ", ".join(part for part in (counts_text(counts), bytes_text(size) if size else "") if part)
    time = TimeView.of(mapping(row, "latency_ms"))
    speed, work, share = (number(row, name) for name in ("throughput", "gflops", "peak_share"))
    memory = number(row, "memory", "device_peak") or number(row, "memory", "peak")
    return (
        Cell(text(row, "name") or DASH, small, code=True),
        Cell(target_words(mapping(row, "target")) or DASH),
        Cell(macs_text(number(row, "macs"))),
        *time_cells(time),
        Cell(DASH) if time is None else Cell(ms_text(time.p99)),
        Cell(DASH if speed is None else significant(speed)),
        Cell(DASH if work is None else significant(work), percent_text(share, 0) if share is not None else ""),
        Cell(DASH if memory is None else bytes_text(memory)),
        Cell(ratio_text(number(row, "ratio", "value")), _span(row)),
        Cell(percent_text(number(row, "gain_share", "value"), 0)),
    )


def _span(row: Mapping[str, Any]) -> str:
    low, high = number(row, "ratio", "low"), number(row, "ratio", "high")
    doubt = " inconclusive" if text(row, "ratio", "says") == "INCONCLUSIVE" else ""
    return "" if low is None or high is None else f"{low:.2f}–{high:.2f}{doubt}"


def _protocol(bench: Mapping[str, Any]) -> str:
    """How it was measured, in one sentence."""
    protocol = mapping(bench, "protocol")
    seconds, runs = number(protocol, "min_seconds"), whole(protocol, "min_runs")
    width, most = number(protocol, "half_width"), number(protocol, "max_seconds")
    parts = []
    if None not in (seconds, runs, width, most):
        parts.append(
            f"Each candidate ran for at least {seconds:g} s and {runs} inferences, until its median was known within "
            f"{percent_text(width, 1)} or {most:g} s had passed"
        )
    if inputs := text(bench, "inputs"):
        parts.append(f"inputs: {inputs}")
    if (seed := whole(bench, "seed")) is not None:
        parts.append(f"seed {seed}")
    said = "; ".join(parts) + "." if parts else "The protocol is not recorded."
    return said + _noise(mapping(bench, "noise")) + _doubts(bench)


def _noise(noise: Mapping[str, Any]) -> str:
    """What the watch over the machine saw; nothing for records from before there was one."""
    word = text(noise, "word")
    reasons = "; ".join(str(reason) for reason in sequence(noise, "reasons"))
    return "" if word is None else f" The machine was {word}{': ' if reasons else ''}{reasons}."


def _doubts(bench: Mapping[str, Any]) -> str:
    """What the bench itself does not believe of its candidates; nothing for records from before it asked."""
    rows = [row for row in sequence(bench, "candidates") if isinstance(row, Mapping)]
    found = [f"{text(row, 'name') or DASH}: {doubt}" for row in rows for doubt in sequence(row, "doubts")]
    return f" In doubt: {'; '.join(found)}." if found else ""

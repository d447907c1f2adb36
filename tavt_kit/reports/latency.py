"""Where the time goes: each layer's predicted milliseconds, and what was measured side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.core.latency_table import HEAD, STEM, LatencyTable, part_names
from tavt_kit.core.schedule import TokenSchedule, counts_text
from tavt_kit.errors import TavtError
from tavt_kit.reports import columns, words
from tavt_kit.reports.blocks import Block, Cell, Column, Missing, Section, Table, Text
from tavt_kit.reports.candidates import CandidateView, FrontView, TimeView, ratio_of
from tavt_kit.reports.charts import layer_figure
from tavt_kit.reports.records import RecordFile, Records, mapping, number, objects, sequence, text, whole


class LayerTimes:
    """The dense or chosen model with the predicted ms of each part, and whole runs measured on the table's target."""

    def __init__(self, name: str, schedule: str, parts: Mapping[str, float], time: TimeView | None) -> None:
        self.name, self.schedule, self.parts, self.time = name, schedule, parts, time
        self.sum = sum(parts.values())


def latency_table(records: Records) -> LatencyTable | None:
    """The table of ``profile.json``, if there is one; TavtError where it cannot be read."""
    profile = records.first("profile")
    if not profile:
        return None
    return LatencyTable.from_record({name: profile[name] for name in profile if name not in ("schema", "version")})


def layer_times(records: Records, table: LatencyTable) -> tuple[LayerTimes, ...]:
    """The dense model and the chosen one, as far as the table is of them."""
    view, layout = FrontView(records.first("front")), table.model.layout
    on_target = words.target_words(mapping(view.record, "target")) == words.target_words(table.target.as_record())
    dense, counts = view.dense, (layout.tokens,) * layout.layers
    if dense is None or dense.counts != counts:
        dense = CandidateView({"schedule": counts, "macs": table.model.macs}, "")
    models, pick = [("dense", dense)], view.pick
    if pick is not None and pick.schedule != dense.schedule and len(pick.counts) == len(dense.counts):
        models.append(("chosen", pick))
    times = []
    for name, model in models:
        try:
            parts = () if model.genes else table.parts(TokenSchedule(model.counts))
        except TavtError:  # the table is of another model
            continue
        if sum(parts) > 0:
            known = dict(zip(part_names(layout.layers), parts, strict=True))
            times.append(LayerTimes(name, model.schedule, known, model.time if on_target else None))
    return tuple(times)


def layers_section(records: Records) -> Section | Missing:
    """The latency table of ``profile.json``, for the dense and the chosen schedule."""
    try:
        table = latency_table(records)
    except TavtError as error:
        warning = Text.of(f"The latency table cannot be read: {error}.", kind="warning")
        return Section("layers", "Where the time goes", (warning,))
    shown = () if table is None else layer_times(records, table)
    if table is None or not shown:
        return Missing("Where the time goes", "fgvc-kit profile MODEL")
    names, where = part_names(table.model.layout.layers), words.target_words(table.target.as_record())
    first = shown[0]
    around = words.percent_text((first.parts[STEM] + first.parts[HEAD]) / first.sum, 0)
    said = (
        f"On {where} the {first.name} model takes {words.ms_text(first.sum)}, predicted by the sum of its parts, "
        f"{around} of it outside the layers."
    )
    for other in shown[1:]:
        faster = words.ratio_text(first.sum / other.sum)
        said += f" The chosen schedule takes {words.ms_text(other.sum)}, {faster} as fast."
    figure = layer_figure(names, {model.name: model.parts for model in shown}, f"milliseconds of each layer on {where}")
    whole_runs = [(model, model.time, model.time.median) for model in shown if model.time and model.time.median]
    sums = Table.of(
        whole_runs,
        "The parts together beside whole runs of the search; each at the speed the machine had then.",
        ("Parts", lambda row: row[0].name),
        (Column("Sum of the parts"), lambda row: words.ms_text(row[0].sum)),
        (Column("Whole run", hint="median, 95 %"), lambda row: Cell(words.ms_text(row[2]), row[1].doubt)),
        (Column("Sum off by"), lambda row: f"{words.points_text((row[0].sum - row[2]) / row[2])}\u00a0%"),
    )
    trust = "This table was not tested against whole runs of other schedules."
    if table.held_out and table.mean_error is not None and table.worst_error is not None:
        trust = (
            f"Predicted from parts timed one by one in {table.seconds:.0f} s, then tested against whole runs of "
            f"{words.plural(len(table.held_out), 'schedule')} that had no part in it: off by "
            f"{words.percent_text(table.mean_error)} on average, {words.percent_text(table.worst_error)} at worst, at "
            "the speed the machine had while they ran."
        )
    blocks = (Text.of(said), figure, *([sums] if whole_runs else ()), Text.of(trust, kind="note"))
    return Section("layers", "Where the time goes", blocks, f"{words.ms_text(shown[-1].sum)} in {len(names)} parts")


def benches_section(records: Records) -> Section | Missing:
    """A table for each ``bench.json``."""
    benches = [file for file in records.all("bench") if sequence(file.body, "candidates")]
    if not benches:
        return Missing("Things measured side by side", "fgvc-kit bench THING...")
    blocks: list[Block] = []
    for file in benches:
        blocks += [_table(file, len(benches) > 1), Text.of(_protocol(file.body), kind="note")]
    rows = [CandidateView(row, "") for file in benches for row in objects(file.body, "candidates")]
    best = min((row for row in rows if row.time.median), key=lambda row: row.time.median or 0.0, default=None)
    fastest = "" if best is None else f", the fastest {best.name or words.DASH} at {best.time}"
    return Section("bench", "Measured side by side", tuple(blocks), f"{words.plural(len(rows), 'candidate')}{fastest}")


def _table(file: RecordFile, named: bool) -> Table:
    which = f"{file.path.parent.name}/{file.path.name}: " if named else ""
    reference, rows = text(file.body, "reference"), [CandidateView(row, "") for row in objects(file.body, "candidates")]
    targets = [words.target_words(mapping(row.record, "target")).split(", ") for row in rows]
    shared = [part for part in (targets or [[]])[0] if all(part in target for target in targets)]

    def ran(row: CandidateView) -> str:
        """What its target has that not all have."""
        own = words.target_words(mapping(row.record, "target")).split(", ")
        return ", ".join(part for part in own if part not in shared)

    def significant(record: Mapping[str, Any], name: str) -> str:
        value = number(record, name)
        return words.DASH if value is None else words.significant(value)

    def name(row: CandidateView) -> Cell:
        size = number(row.record, "size_bytes")
        parts = (counts_text(row.counts), words.bytes_text(size) if size else "")
        return Cell(row.name or words.DASH, ", ".join(filter(None, parts)), code=True)

    def speed(row: CandidateView) -> Cell:
        doubt = " inconclusive" if text(row.record, "ratio", "says") == "INCONCLUSIVE" else ""
        span = row.ratio.span if row.ratio else ""
        return Cell(ratio_of(row.ratio), span and f"{span}{doubt}")

    def gain(row: CandidateView) -> str:
        return words.percent_text(number(row.record, "gain_share", "value"), 0)

    on = f" on {', '.join(shared)}" if any(shared) else ""
    return Table.of(
        rows,
        f"{which}Interleaved in random order{on}{f'; speed is against {reference}' if reference else ''}.",
        ("Candidate", name),
        ("Ran as", ran),
        columns.MACS,
        columns.MEDIAN,
        columns.P90,
        (Column("p99"), lambda row: words.ms_text(row.time.p99)),
        (Column("Images/s"), lambda row: significant(row.record, "throughput")),
        (Column("GFLOP/s"), lambda row: significant(row.record, "gflops")),
        (Column("Load"), lambda row: words.ms_text(number(row.record, "latency_ms", "load_ms"))),
        (Column("Memory", hint="at most"), lambda row: words.bytes_text(number(row.record, "memory", "peak"))),
        (Column("Speed", hint="paired, 95 %"), speed),
        (Column("Gain realised", hint="of the MACs saved"), gain),
    )


def _protocol(bench: Mapping[str, Any]) -> str:
    """How it was measured, what the watch over the machine saw, and what the bench itself does not believe."""
    protocol = mapping(bench, "protocol")
    seconds, runs = number(protocol, "min_seconds"), whole(protocol, "min_runs")
    width, most = number(protocol, "half_width"), number(protocol, "max_seconds")
    parts = []
    if None not in (seconds, runs, width, most):
        parts.append(
            f"Each candidate ran for at least {seconds:g} s and {runs} inferences, until its median was known within "
            f"{words.percent_text(width, 1)} or {most:g} s had passed"
        )
    if inputs := text(bench, "inputs"):
        parts.append(f"inputs: {inputs}")
    if (seed := whole(bench, "seed")) is not None:
        parts.append(f"seed {seed}")
    said = "; ".join(parts) + "." if parts else "The protocol is not recorded."
    if (noise := text(bench, "noise", "word")) is not None:
        reasons = "; ".join(map(str, sequence(bench, "noise", "reasons")))
        said += f" The machine was {noise}{': ' if reasons else ''}{reasons}."
    doubts = dict[str, list[str]]()
    for row in objects(bench, "candidates"):
        for doubt in sequence(row, "doubts"):
            doubts.setdefault(str(doubt), []).append(text(row, "name") or words.DASH)
    told = "; ".join(f"{', '.join(names)}: {doubt}" for doubt, names in doubts.items())
    return f"{said} In doubt: {told}." if told else said

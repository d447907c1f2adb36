"""What was measured one against another: every candidate of every bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tavt_kit.core.schedule import counts_text
from tavt_kit.reports.blocks import Block, Cell, Column, Missing, Section, Table, Text
from tavt_kit.reports.gather import Found, Records
from tavt_kit.reports.numbers import DASH, bytes_text, macs_text, ms_text, percent_text, ratio_text, significant
from tavt_kit.reports.views import TimeView, mapping, number, sequence, text, whole
from tavt_kit.reports.words import target_words

__all__ = ["benches_section"]

_ANCHOR, _TITLE = "bench", "Measured side by side"


def benches_section(records: Records) -> Section | Missing:
    """A table for each ``bench.json``."""
    benches = [found for found in records.all("bench") if sequence(found.body, "candidates")]
    if not benches:
        return Missing("Things measured side by side", "fgvc-kit bench THING...")
    blocks: list[Block] = []
    for found in benches:
        blocks += [_table(found, len(benches) > 1), Text.of(_protocol(found.body), kind="note")]
    return Section(_ANCHOR, _TITLE, tuple(blocks))


def _table(found: Found, named: bool) -> Table:
    rows = [row for row in sequence(found.body, "candidates") if isinstance(row, Mapping)]
    columns = (
        Column("Candidate", numeric=False),
        Column("Ran as", numeric=False),
        Column("MACs", hint="of one image"),
        Column("Median", hint="95 %"),
        Column("p90"),
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
        Cell(DASH) if time is None else Cell(ms_text(time.median), time.doubt),
        Cell(DASH) if time is None else Cell(ms_text(time.p90)),
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

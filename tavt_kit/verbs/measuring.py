"""``bench``, ``profile`` and ``doctor``: what a machine takes, and what it can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.core.budget import Limit, Verdict
from tavt_kit.verbs import options
from tavt_kit.verbs.verb import Answer, verb

if TYPE_CHECKING:
    from tavt_kit.bench.record import BenchRow
    from tavt_kit.core.latency_table import LatencyTable
    from tavt_kit.workflows.bench import BenchResult
    from tavt_kit.workflows.doctor import DoctorResult


@verb
def bench_verb(
    things: Annotated[
        list[str] | None,
        typer.Argument(metavar="[THING...]", help="Run folders, timm models' names, .onnx and .xml files."),
    ] = None,
    **given: Any,
) -> Answer:
    """With --budget the exit code is 1 unless all PASS. --dense is short for --schedule dense."""
    from tavt_kit.workflows.bench import bench

    result = bench(things or (), **given)
    record, code = {**result.record, "file": str(result.file)}, 0 if result.verdict is Verdict.PASS else 1
    return Answer(record, lambda: _print_bench(result), code)


def _print_bench(result: BenchResult) -> None:
    """The table, and what is to be said of candidates and of the machine."""
    from tavt_kit.core.host import HostFacts
    from tavt_kit.reports.latency import benches_section
    from tavt_kit.verbs.tables import print_sections

    body, records = result.record, result.record["candidates"]
    print_sections("bench", result.file, body, benches_section)
    for row, record in zip(result.rows, records, strict=True):
        for sentence in _sentences(row, record):
            print(f"{row.name}: {sentence}")
    print(f"{HostFacts.from_record(body['host'])}; {result.file}")


def _sentences(row: BenchRow, record: Mapping[str, Any]) -> Iterator[str]:
    if not row.latency.steady:
        yield "unsteady: its median is not known within the protocol's 1 %; --max-time gives it longer"
    if record["memory"] is not None and record["memory"]["reason"]:
        yield f"no memory: {record['memory']['reason']}"
    for verdict in record["budgets"]:
        limit, low, high = Limit.parse(verdict["budget"]), verdict["low"], verdict["high"]
        if low is None:
            why = verdict["reason"]
        elif high is None:
            why = f"at least {limit.show(low)}, and too few runs for more"
        else:
            why = limit.show(low) if low == high else f"{limit.show(low)} to {limit.show(high)}"
        yield f"{limit} {verdict['verdict']} ({why})"


@verb
def profile_verb(model: options.Model, **given: Any) -> Answer:
    """The profile.json of another machine is what search --profile takes."""
    from tavt_kit.workflows.profile import profile

    result = profile(model, **given)
    record = {**result.record, "file": str(result.file)}
    return Answer(record, lambda: _print_profile(result.table, result.file))


def _print_profile(table: LatencyTable, file: Path) -> None:
    from tavt_kit.verbs.console import print_table

    cells, rows = table.cells, list[tuple[str | None, ...]]()
    drops = {cell.count: cell for cell in cells.drop}
    for count in reversed(cells.attend.counts):
        drop = drops.get(count)
        kept = [] if drop is None else [f"{cells.ms('drop', count, few):.3f}" for few in (drop.few, drop.many)]
        attend, feed = (f"{cells.ms(half, count):.3f}" for half in ("attend", "feed"))
        rows.append((str(count), attend, *(kept or (None, None)), feed))
    print_table(("tokens", "attention ms", "drop to half ms", "drop to 90 % ms", "feed-forward ms"), rows)
    calibrated = "" if table.calibration is None else f"; int8 calibrated on {table.calibration}"
    print(
        f"{table.model.name} on {table.target}: {table.seconds:.0f} s, scale {table.scale:.3f}, weights cached "
        f"{100 * table.cached:.0f} %, stem {cells.stem_ms:.2f} ms; per layer, {table.model.score} score{calibrated}"
    )
    if table.held_out:
        rows = [
            (str(run.schedule), f"{run.predicted_ms:.2f}", f"{run.drift:.3f}",
             f"{run.measured_ms:.2f}{'' if run.steady else ' (unsteady)'}", f"{100 * run.error:+.1f} %")
            for run in table.held_out
        ]  # fmt: skip
        print_table(("held-out schedule", "predicted ms", "x drift", "measured ms", "error"), rows)
        errors = table.mean_error, table.worst_error, table.mean_raw_error
        mean, largest, raw = (100 * (share or 0.0) for share in errors)
        print(
            f"mean error {mean:.1f} %, worst {largest:.1f} % on {len(table.held_out)} held-out schedules at the "
            "machine's speed while they ran, which the dense model beside them shows (x drift); "
            f"{raw:.1f} % without that correction"
        )
    print(f"{table.host}; {file}")


@verb
def doctor_verb() -> Answer:
    """A target that is not here is listed with the reason that a verb would refuse it with."""
    from tavt_kit.workflows.doctor import doctor

    result = doctor()
    return Answer(result.record, lambda: _print_machine(result))


def _print_machine(result: DoctorResult) -> None:
    from tavt_kit.verbs.console import print_table

    targets = [(text, "no" if reason else "yes", _short(reason)) for text, reason in result.refused.items()]
    for titles, rows in ((("this machine", " "), [*_machine(result)]), (("target", "usable", "why not"), targets)):
        print_table(titles, rows, left=titles, width=80)
        print()
    if not result.findings:
        print("nothing is missing")
    for finding in result.findings:
        print(f"{'optional' if finding.optional else 'to mend'}: {finding.what}\n    {finding.command}")


def _machine(result: DoctorResult) -> Iterator[tuple[str, str]]:
    facts, room = result.host, result.room
    quota = "no quota" if facts.quota is None else f"a quota of {facts.quota:.3g} CPUs' time"
    governor = f", governor {facts.governor}" if facts.governor else ""
    yield "processor", facts.cpu
    yield "instruction sets", ", ".join(facts.flags) or "-"
    yield "CPUs", f"{len(facts.affinity)} of {facts.cores} allowed, {quota}{governor}"
    limit = "no limit" if room.memory_limit is None else f"a limit of {_size(room.memory_limit)}"
    yield "memory", f"{_size(room.memory)}, {_size(room.memory_free)} free, {limit}"
    yield "cache", f"{room.cache}, {_size(room.cache_free)} free"
    yield "load", ", ".join(f"{value:g}" for value in facts.load) + " in 1, 5 and 15 minutes" if facts.load else "-"
    yield "system", f"{facts.os}, Python {facts.python}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in facts.packages.items())


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.1f} GB"


def _short(reason: str) -> str:
    """A refusal without the target's name before it and the advice behind it; both are in --json."""
    words = reason.split(maxsplit=2)
    rest = words[2] if len(words) == 3 and words[0] == "target" else reason
    return rest.partition("; ")[0]

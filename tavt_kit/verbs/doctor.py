"""``fgvc-kit doctor``: what this machine can do, how fast, and what is missing."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from rich.console import Console

    from tavt_kit.core.host import HostFacts
    from tavt_kit.workflows.doctor import DoctorResult, Finding, Room


Fast = Annotated[bool, typer.Option("--fast", help="Measure nothing: answers in seconds.")]


def doctor_verb(fast: Fast = False, as_json: options.Json = False) -> int:
    """Say what this machine can do, how fast it is, and what is missing.

    Which targets can be used; the processor, its instruction sets and what this process may have of it; how fast it
    multiplies in each precision and copies; a ViT-S on every runtime (half a minute; --fast leaves all measuring out);
    and for all that is missing the one command that mends it. A target that is not here is listed with the reason
    that a verb would refuse it with.
    """
    from tavt_kit.verbs.console import ConsoleProgress
    from tavt_kit.workflows.doctor import doctor

    with ConsoleProgress() as progress:
        found = doctor(fast=fast, progress=progress)
    if as_json:
        print(json.dumps(found.record, indent=1, allow_nan=False))
    else:
        print_doctor(found)
    return 0


_X86 = {
    "AVX2": (("avx2",), "f32, 8 numbers at once"),
    "AVX-512": (("avx512f",), "f32, 16 numbers at once"),
    "VNNI": (("avx512_vnni", "avx_vnni"), "int8 products"),
    "AVX-512 BF16": (("avx512_bf16",), "bf16 products"),
    "AMX": (("amx_bf16", "amx_int8", "amx_tile"), "bf16 and int8 products in tiles"),
}
_ARM = {
    "NEON": (("asimd",), "f32, 4 numbers at once"),
    "SVE": (("sve",), "f32, wider"),
    "dot product": (("asimddp",), "int8 products"),
    "I8MM": (("i8mm",), "int8 products of matrices"),
    "BF16": (("bf16",), "bf16 products"),
}
"""Instruction sets by the name people use: the kernel's names for them, and what they speed up."""

_PRECISIONS = ("f32", "f16", "bf16", "int8")


def print_doctor(found: DoctorResult) -> None:
    """Print all of it on stdout."""
    from tavt_kit.verbs.console import console_of, table_of

    console, facts = console_of(80), found.host
    sets = _ARM if platform.machine().lower() in ("aarch64", "arm64", "armv8l") else _X86
    here = {name: ", ".join(flag for flag in flags if flag in facts.flags) for name, (flags, _) in sets.items()}
    instructions = [
        (name, f"yes ({here[name]}): {use}" if here[name] else f"no: {use}") for name, (_, use) in sets.items()
    ]
    targets = [(text, "no" if reason else "yes", _short(reason)) for text, reason in found.refused.items()]
    for titles, rows in (
        (("this machine", " "), _about(facts, found.room)),
        (("instruction set", " "), instructions),
        (("target", "usable", "why not"), targets),
    ):
        console.print(table_of(titles, rows, left=titles), "", sep="\n")
    if found.speed is not None:
        _peaks(console, found.speed)
        _reference(console, found.speed)
    _findings(console, found.findings)


def _about(facts: HostFacts, room: Room) -> Iterator[tuple[str, str]]:
    allowed = f"{len(facts.affinity)} of {facts.cores} allowed"
    quota = "no quota" if facts.quota is None else f"a quota of {facts.quota:.3g} CPUs' time"
    governor = f", governor {facts.governor}" if facts.governor else ""
    yield "processor", facts.cpu
    yield "CPUs", f"{allowed}, {quota}{governor}"
    limit = "no limit" if room.memory_limit is None else f"a limit of {_size(room.memory_limit)}"
    yield "memory", f"{_size(room.memory)}, {_size(room.memory_free)} free, {limit}"
    yield "cache", f"{room.cache}, {_size(room.cache_free)} free"
    files, most = ("?" if n is None else "any" if n < 0 else str(n) for n in (room.files, room.files_most))
    yield "open files", f"{files} of at most {most}"
    yield "energy", room.energy
    yield "load", ", ".join(f"{value:g}" for value in facts.load) + " in 1, 5 and 15 minutes" if facts.load else "-"
    yield "system", f"{facts.os}, Python {facts.python}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in facts.packages.items())


def _short(reason: str) -> str:
    """A refusal without the target's name before it and the advice behind it; both are in --json."""
    words = reason.split(maxsplit=2)
    rest = words[2] if len(words) == 3 and words[0] == "target" else reason
    return rest.partition("; ")[0]


def _peaks(console: Console, speed: Mapping[str, Any]) -> None:
    """Peaks of each processor, and whether its fast precisions are fast with all its threads."""
    from tavt_kit.verbs.console import table_of
    from tavt_kit.workflows.doctor import CLEARLY

    rows = speed["peaks"]
    shown = [name for name in _PRECISIONS if any(name in row.get("gflops", ()) for row in rows)]
    found, last = list[tuple[str, ...]](), dict[str, Any]()
    for row in rows:
        name = row["processor"] if row["threads"] is None else f"cpu, threads={row['threads']}"
        if "reason" in row:
            found.append((f"{name}: {row['reason']}",))
            continue
        speeds = [_three(row["gflops"][name]) if name in row["gflops"] else "-" for name in shown]
        copies = ["-" if row[name] is None else _three(row[name]) for name in ("copy_gbs", "cached_gbs")]
        found.append((name, *speeds, *copies))
        last[row["processor"]] = row
    console.print(table_of(("peak (GFLOP/s)", *shown, "copy GB/s", "in cache"), found))
    for processor, row in last.items():
        for precision, gain in row["gains"].items():
            worth = "faster" if gain > CLEARLY else "not faster here, stay with f32"
            runtimes = f"{row['by'][precision]} over {row['by']['f32']}"
            console.print(f"{processor}: {precision} is {gain:.2f}x f32 ({runtimes}): {worth}", highlight=False)
    if speed["bf16_in_torch"] is not None:
        usual = "bf16" if speed["bf16_in_torch"] else "f32"
        console.print(f"torch:cpu trains and searches in {usual} unless told", highlight=False)
    console.print()


def _reference(console: Console, speed: Mapping[str, Any]) -> None:
    from tavt_kit.verbs.console import table_of

    reference, noise = speed["reference"], speed["noise"]
    if "reason" in reference:
        console.print(f"{reference['model']}: not measured, it {reference['reason']}\n", highlight=False)
        return
    rows = list[tuple[str, ...]]()
    for row in reference["rows"]:
        if "reason" in row:
            rows.append((f"{row['target']}: {_short(row['reason'])}",))
            continue
        times = [_three(row[name]) for name in ("median", "p90", "first_ms")]
        rows.append((row["target"].removesuffix(":batch=1"), *times, f"{row['load_ms'] / 1e3:.1f}"))
    titles = (f"{reference['model']}, batch 1", "median ms", "p90 ms", "first ms", "load s")
    console.print(table_of(titles, rows))
    for reason in noise["reasons"]:
        console.print(f"unsteady: {reason}", highlight=False)
    console.print()


def _findings(console: Console, found: Sequence[Finding]) -> None:
    from rich.markup import escape

    if not found:
        console.print("nothing is missing")
    for one in found:
        kind = "optional" if one.optional else "to mend"
        console.print(f"{kind}: {escape(one.what)}", highlight=False)
        # A command is copied: it must not be broken into lines.
        console.print(f"    {escape(one.command)}", highlight=False, soft_wrap=True)


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.1f} GB"


def _three(value: float) -> str:
    """Three digits, or all of a longer whole number."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"

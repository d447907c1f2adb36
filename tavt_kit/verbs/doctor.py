"""``fgvc-kit doctor``: what this machine can do, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tavt_kit.verbs import options

if TYPE_CHECKING:
    from rich.console import Console

    from tavt_kit.core.host import HostFacts
    from tavt_kit.workflows.doctor import Finding, Room


def doctor_verb(as_json: options.Json = False) -> int:
    """Say what this machine can do, and what is missing.

    The processor, its instruction sets and what this process may have of it; which targets can be used; and for all
    that is missing the one command that mends it. A target that is not here is listed with the reason that a verb would
    refuse it with.
    """
    from tavt_kit.verbs.console import console_of, table_of
    from tavt_kit.workflows.doctor import doctor

    result = doctor()
    if as_json:
        print(json.dumps(result.record, indent=1, allow_nan=False))
        return 0
    console = console_of(80)
    targets = [(text, "no" if reason else "yes", _short(reason)) for text, reason in result.refused.items()]
    for titles, rows in (
        (("this machine", " "), _about(result.host, result.room)),
        (("target", "usable", "why not"), targets),
    ):
        console.print(table_of(titles, rows, left=titles), "", sep="\n")
    _print_findings(console, result.findings)
    return 0


def _about(facts: HostFacts, room: Room) -> Iterator[tuple[str, str]]:
    allowed = f"{len(facts.affinity)} of {facts.cores} allowed"
    quota = "no quota" if facts.quota is None else f"a quota of {facts.quota:.3g} CPUs' time"
    governor = f", governor {facts.governor}" if facts.governor else ""
    yield "processor", facts.cpu
    yield "instruction sets", ", ".join(facts.flags) or "-"
    yield "CPUs", f"{allowed}, {quota}{governor}"
    limit = "no limit" if room.memory_limit is None else f"a limit of {_size(room.memory_limit)}"
    yield "memory", f"{_size(room.memory)}, {_size(room.memory_free)} free, {limit}"
    yield "cache", f"{room.cache}, {_size(room.cache_free)} free"
    files, most = ("?" if n is None else "any" if n < 0 else str(n) for n in (room.files, room.files_most))
    yield "open files", f"{files} of at most {most}"
    yield "load", ", ".join(f"{value:g}" for value in facts.load) + " in 1, 5 and 15 minutes" if facts.load else "-"
    yield "system", f"{facts.os}, Python {facts.python}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in facts.packages.items())


def _short(reason: str) -> str:
    """A refusal without the target's name before it and the advice behind it; both are in --json."""
    words = reason.split(maxsplit=2)
    rest = words[2] if len(words) == 3 and words[0] == "target" else reason
    return rest.partition("; ")[0]


def _print_findings(console: Console, findings: Sequence[Finding]) -> None:
    from rich.markup import escape

    if not findings:
        console.print("nothing is missing")
    for finding in findings:
        kind = "optional" if finding.optional else "to mend"
        console.print(f"{kind}: {escape(finding.what)}", highlight=False)
        # A command is copied: it must not be broken into lines.
        console.print(f"    {escape(finding.command)}", highlight=False, soft_wrap=True)


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.1f} GB"

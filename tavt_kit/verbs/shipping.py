"""``export``, ``check``, ``push`` and ``pull``: files that leave, and what is fetched again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tavt_kit.verbs import options
from tavt_kit.verbs.verb import Answer, verb

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A repository of the Hugging Face hub.")]


@verb
def export_verb(run: options.Run, **given: Any) -> Answer:
    """--dense is short for --schedule dense. Exits 1 unless every file passed or is taken."""
    from tavt_kit.verbs.tables import print_checks
    from tavt_kit.workflows.export import export

    result = export(run, **given)
    artifacts, checks = ([part.record for part in parts] for parts in (result.files, result.checks))
    if result.licence is not None:
        print(result.licence, file=sys.stderr)

    def show() -> None:
        print_checks(checks)
        for file in result:
            entry = file.record
            print(f"{result.folder / entry['file']}{_ENDS[file.status].format(size=entry['bytes'] / 1e6)}")

    record = {"folder": str(result.folder), "artifacts": artifacts, "checks": checks}
    return Answer(record, show, 0 if result.settled else 1)


_ENDS = {
    "final": ": {size:.1f} MB",
    "unproven": ".unproven: {size:.1f} MB; its sentence says what to do, --accept-inconclusive takes it all the same",
    "refused": ": not written",
}


@verb
def check_verb(
    thing: Annotated[
        Path | None, typer.Argument(metavar="[THING]", help="An .onnx or .xml file, or *.unproven.")
    ] = None,
    **given: Any,
) -> Answer:
    """Exits 1 unless the verdict is PASS, or INCONCLUSIVE and the file is taken or accepted."""
    from tavt_kit.verbs.tables import print_checks
    from tavt_kit.workflows.check import check

    result = check(thing, **given)
    records = [entry.record for entry in result.checks]
    for note in result.notes:
        print(f"fgvc-kit check: {note}", file=sys.stderr)
    record = records[0] if len(records) == 1 else records
    return Answer(record, lambda: print_checks(records), 0 if result.accepted else 1)


@verb
def push_verb(
    thing: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a fit's: then what it recommends.")],
    repository: Repository,
    **given: Any,
) -> Answer:
    """HF_TOKEN says who you are."""
    from tavt_kit.workflows.hub import push

    address = push(thing, repository, **given)
    return Answer({"address": address}, lambda: print(address))


@verb
def pull_verb(repository: Repository, out: options.Out, **given: Any) -> Answer:
    """What is printed is the file or folder that other verbs take."""
    from tavt_kit.workflows.hub import pull

    path = pull(repository, out, **given)
    return Answer({"path": str(path)}, lambda: print(path))

"""``fgvc-kit bench --read``: what other programs measured, as one record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tavt_kit.errors import MeasurementError

__all__ = ["read_foreign"]


def read_foreign(files: Sequence[Path], things: Sequence[str], out: Path | None, *, as_json: bool) -> int:
    """Read result files, print them, and write ``latencies.json``; returns the exit code.

    Args:
        files: Of trtexec or benchmark_app; all are read before anything is written.
        things: What was to be measured besides, which is a contradiction.
        out: The folder; by default that of the first file.
        as_json: Print the record instead of a table.

    Raises:
        MeasurementError: There is nothing to read, or things to measure too.
        RecordError: A file is of another program.
    """
    from tavt_kit.bench.foreign_times import SCHEMA, VERSION, read_times
    from tavt_kit.core.records import make_folder, write_record

    if not files:
        raise MeasurementError("nothing to measure: give run folders, models' names or exported files, or --read FILE")
    if things:
        raise MeasurementError(
            f"--read shows what other programs measured and measures nothing, got {', '.join(things)} too; run it twice"
        )
    found = [read_times(file) for file in files]
    path = make_folder(out or files[0].parent) / "latencies.json"
    body = {"candidates": [one.as_record() for one in found]}
    write_record(path, SCHEMA, VERSION, body)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "version": VERSION, "file": str(path), **body}))
        return 0
    for one in found:
        figures = ", ".join(f"{name} {value:.4g} ms" for name, value in one.figures.items())
        batch = "" if one.batch is None else f", batch {one.batch}"
        about = "".join(f"; {name} {value}" for name, value in one.about.items())
        print(f"{one.file}: {figures}{batch} ({one.tool}{about})")
        if one.measurement is None:
            print("  a summary without its samples: no interval, so it decides no budget")
    print(path)
    return 0

"""read_latencies: what other programs measured, as one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.errors import MeasurementError
from tavt_kit.evaluation.frames import frame

if TYPE_CHECKING:
    import pandas

    from tavt_kit.bench.foreign_times import ForeignTimes

__all__ = ["ReadLatencies", "read_latencies"]

LATENCIES_FILE = "latencies.json"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReadLatencies:
    """Latencies of other programs.

    Args:
        times: What each file says, in the order of the files.
        file: The ``latencies.json`` that was written.
        record: Everything, as that file has it.
    """

    times: tuple[ForeignTimes, ...]
    file: Path
    record: Mapping[str, Any]

    def to_frame(self) -> pandas.DataFrame:
        """One line a file: its program, batch and latencies in ms.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return frame([{"file": one.file, "tool": one.tool, "batch": one.batch, **one.figures} for one in self.times])

    def __repr__(self) -> str:
        shown = ", ".join(f"{one.file} {one.figures['median']:.3g} ms" for one in self.times)
        return f"<latencies: {shown}; {self.file}>"


def read_latencies(files: Sequence[str | Path], *, out: str | Path | None = None) -> ReadLatencies:
    """Read result files of trtexec or benchmark_app, and write ``latencies.json``.

    Args:
        files: Result files; all are read before anything is written.
        out: Folder of ``latencies.json``; by default that of the first file.

    Raises:
        MeasurementError: There is no file, or one holds no latency.
        RecordError: A file cannot be read, or is of another program.
        OutputError: The folder cannot be written.

    Example:
        >>> read_latencies(["times.json"]).times[0].figures["median"]  # doctest: +SKIP
    """
    from tavt_kit.bench.foreign_times import SCHEMA, VERSION, read_times
    from tavt_kit.core.records import make_folder, write_record

    paths = [Path(file) for file in files]
    if not paths:
        raise MeasurementError("there is nothing to read; give result files of trtexec or benchmark_app")
    times = tuple(read_times(path) for path in paths)
    file = make_folder(paths[0].parent if out is None else Path(out)) / LATENCIES_FILE
    body = {"candidates": [one.as_record() for one in times]}
    write_record(file, SCHEMA, VERSION, body)
    return ReadLatencies(times, file, {"schema": SCHEMA, "version": VERSION, **body})

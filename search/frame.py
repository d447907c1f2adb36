"""The front of a search as a pandas frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.candidate import Candidate
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.records import read_record
from tavt_kit.evaluation.frames import frame
from tavt_kit.search.record import FRONT_FILE
from tavt_kit.search.result import SearchResult

if TYPE_CHECKING:
    import pandas


def front_frame(found: SearchResult | Mapping[str, Any] | Path | str) -> pandas.DataFrame:
    """One row a candidate of the front, by rising cost.

    Args:
        found: What ``search`` gave, or a ``front.json``: its path, its folder or what it holds.

    Returns:
        Columns ``schedule`` (text), ``counts``, ``macs``, each metric by its name, ``low`` and ``high`` of the first
        metric's 95 % interval, ``n``, the latencies in ms as ``predicted``, ``median``, ``p90``, ``p99`` (NaN where
        there is none), where memory was limited ``memory`` (the median) in bytes, ``origin`` and ``verdict``.

    Raises:
        MissingDependency: pandas is not installed.
        RecordError: There is no front.
    """
    if isinstance(found, SearchResult):
        records = [_with_metric(candidate) for candidate in found.front]
    else:
        body = found if isinstance(found, Mapping) else _body(Path(found))
        records = [(record, body["metric"]) for record in body["candidates"]]
    return frame([_row(record, metric) for record, metric in records], _columns(records))


def _body(path: Path) -> dict[str, Any]:
    return read_record(path / FRONT_FILE if path.is_dir() else path, "front")


def _with_metric(candidate: Candidate) -> tuple[Mapping[str, Any], str]:
    assert candidate.accuracy is not None  # no front holds a failure
    return candidate.as_record(), candidate.accuracy.metric


def _row(record: Mapping[str, Any], metric: str) -> dict[str, Any]:
    times = record["latency_ms"] or {}
    low, high = record["ci95"]
    return {
        "schedule": str(Configuration.from_record(record)),
        "counts": tuple(record["schedule"]),
        "macs": record["macs"],
        metric: record[metric],
        **{name: other["value"] for name, other in record.get("others", {}).items()},
        "low": low,
        "high": high,
        "n": record["n"],
        **{name: times.get(name) for name in ("predicted", "median", "p90", "p99")},
        **({"memory": known.get("median")} if (known := record.get("memory_bytes")) else {}),
        "origin": record["origin"],
        "verdict": record["verdict"],
    }


def _columns(records: list[tuple[Mapping[str, Any], str]]) -> list[str] | None:
    """Of a front without candidates; else those of the rows."""
    if records:
        return None
    return ["schedule", "counts", "macs", "low", "high", "n", "predicted", "median", "p90", "p99", "origin", "verdict"]

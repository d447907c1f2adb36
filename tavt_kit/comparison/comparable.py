"""Records as far as two of them can be compared: their candidates, and what must agree for that to mean anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.measurement import Measurement
from tavt_kit.core.records import kind_of, read_json, upgraded
from tavt_kit.core.schedule import counts_text
from tavt_kit.errors import MeasurementError, RecordError, TargetError

_HOST = ("cpu", "flags", "cores", "affinity", "quota", "accelerator")
"""Host facts that must agree. Versions of packages may differ, and are told: that is what one often compares."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A median time (ms) and its 95 % interval, of a record that keeps no samples."""

    median: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.median <= self.high < math.inf:
            raise MeasurementError(
                f"a recorded time needs 0 < low <= median <= high, got {self.low}, {self.median}, {self.high}"
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """One candidate of a record.

    Args:
        name: Unique in its record.
        traits: What must agree for two of one name to be the same thing: target, schedule.
        time: All its samples, or a summary of them.
        notes: Sentences that make it doubtful.
    """

    name: str
    traits: Mapping[str, str]
    time: Measurement | Summary | None = None
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readable:
    """A record of one of ``KINDS``, as far as it can be compared: its candidates.

    Args:
        path: The file.
        traits: What must agree between two records.
        facts: What may differ, and is told.
    """

    path: Path
    kind: str
    traits: Mapping[str, str]
    facts: Mapping[str, str]
    entries: tuple[Entry, ...]


def read_readable(path: Path) -> Readable:
    """Read a record that can be compared.

    Raises:
        RecordError: It is not there, is no JSON, is none of ``KINDS``, or lacks what such a record has.
    """
    body = read_json(path)
    kind = kind_of(body)
    if kind is None or kind not in KINDS:
        schema = body.get("schema") if isinstance(body, dict) else None
        found = f"has schema {schema!r}" if schema is not None else "has no schema"
        raise RecordError(f"records of {', '.join(KINDS)} are compared, but {path} {found}; give one of ours")
    body = upgraded(path, kind, body)
    try:
        traits, facts, entries = KINDS[kind](body)
    except (RecordError, TargetError):
        raise
    except (KeyError, TypeError, AttributeError, ValueError, MeasurementError) as error:
        raise RecordError(f"{path} lacks what a {kind} record has ({error}); write it again") from None
    if not entries:
        raise RecordError(f"{path} has no candidates, so there is nothing to compare; write it again")
    names = [entry.name for entry in entries]
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise RecordError(
                f"the candidates of a record have names of their own, but {name!r} is not one; write it again"
            )
    return Readable(path, kind, traits, facts, tuple(entries))


def files_of_run(folder: Path) -> dict[str, Path]:
    """The records of a run folder that can be compared, by kind.

    Raises:
        RecordError: There are none.
    """
    found = {kind: folder / f"{kind}.json" for kind in KINDS if (folder / f"{kind}.json").is_file()}
    if not found:
        raise RecordError(f"{folder} holds none of the records that compare reads ({', '.join(KINDS)}); name a file")
    return found


Parts = tuple[dict[str, str], dict[str, str], list[Entry]]


def _bench(body: Mapping[str, Any]) -> Parts:
    protocol = {f"protocol {key}": str(value) for key, value in body["protocol"].items()}
    traits = {**_host_traits(body["host"]), **protocol, "inputs": str(body["inputs"])}
    entries = []
    for row in body["candidates"]:
        # Of many inferences in flight the wall clock's share of each is compared, as the bench's own ratios do.
        time = Measurement.from_record(row.get("share_ms") or row["latency_ms"])
        notes = (*(() if time.steady else ("unsteady",)), *row.get("doubts", ()))
        entries.append(Entry(row["name"], {**_target(row["target"]), **_schedule(row)}, time, notes=notes))
    return traits, _facts(body["host"]), entries


def _check(body: Mapping[str, Any]) -> Parts:
    rows = body["checks"]
    data = (rows[0].get("data") if rows else None) or body.get("data") or {}
    traits = {f"data {key}": str(data.get(key)) for key in ("name", "split", "images", "sha256")}
    entries = []
    for row in rows:
        accuracy = Accuracy.from_record(row["artifact_top1"])
        entries.append(Entry(row["artifact"], {"precision": row["precision"], **_schedule(row)}, accuracy=accuracy))
    return traits, {"executed": ", ".join(dict.fromkeys(row["executed"] for row in rows))}, entries


def _front(body: Mapping[str, Any]) -> Parts:
    traits = {**_target(body["target"]), **{key: str(body[key]) for key in ("split", "metric")}}
    traits["model"] = str(body["model"]["name"])
    entries = []
    for row in [*body["candidates"], *body.get("baselines", ())]:
        name = str(Configuration.from_record(row))
        accuracy = Accuracy(body["metric"], body["split"], row[body["metric"]], row["n"], *row["ci95"])
        entries.append(Entry(name, {"schedule": name}, _summary(row.get("latency_ms")), accuracy))
    unique = {entry.name: entry for entry in entries}
    return traits, {"budgets": ", ".join(body["budgets"])}, list(unique.values())


def _final(body: Mapping[str, Any]) -> Parts:
    metric, host = body["metric"], body["host"]
    traits = {**_host_traits(host), **_target(body["target"]), "metric": metric}
    entries = []
    for row in body["rows"]:
        accuracy = Accuracy(metric, row["split"], row[metric], row["n"], *row["ci95"])
        entries.append(Entry(row["name"], {"split": row["split"]}, _summary(row.get("latency_ms")), accuracy))
    return traits, _facts(host), entries


def _eval(body: Mapping[str, Any]) -> Parts:
    top1 = Accuracy.from_record(body["top1"])
    traits = {"data": str(body["data"]), "split": top1.split, "images": str(top1.n)}
    facts = {"thing": str(body["thing"]), "schedule": str(body["schedule"])}
    return traits, facts, [Entry("top-1", {}, accuracy=top1)]


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Parts]] = {
    "bench": _bench, "check": _check, "front": _front, "final": _final, "eval": _eval,
}  # fmt: skip
"""What can be compared, and how each is read: what must agree, what may differ, the candidates."""


def _host_traits(host: Mapping[str, Any]) -> dict[str, str]:
    facts = {key: host.get(key) for key in _HOST}
    return {f"host {key}": " ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in facts.items()}


def _facts(host: Mapping[str, Any]) -> dict[str, str]:
    return {"Python": str(host["python"]), **{name: str(version) for name, version in host["packages"].items()}}


def _target(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Nothing of a search by multiply-adds, which has no target."""
    return {} if record is None else {"target": str(TargetDevice.from_record(record))}


def _schedule(row: Mapping[str, Any]) -> dict[str, str]:
    return {} if row["schedule"] is None else {"schedule": counts_text(row["schedule"])}


def _summary(time: Mapping[str, Any] | None) -> Summary | None:
    if not time or time.get("median") is None or time.get("interval95") is None:
        return None
    low, high = time["interval95"]
    return Summary(time["median"], low, high)

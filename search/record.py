"""What a search leaves behind: ``front.json`` and ``candidates.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.codec import encode
from tavt_kit.core.configuration import Configuration
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.parsing import csv_text
from tavt_kit.core.records import atomic_text, read_record, reading
from tavt_kit.evaluation.frames import frame
from tavt_kit.search.finalists import Final
from tavt_kit.search.objectives import SearchResult

if TYPE_CHECKING:
    import pandas

FRONT_FILE = "front.json"
CSV_FILE = "candidates.csv"
_AXES = {
    "macs": "macs",
    "predicted": "latency_ms.predicted",
    "p50": "latency_ms.median",
    "p90": "latency_ms.p90",
    "p99": "latency_ms.p99",
}
"""Where a candidate's record has a cost."""


def front_body(
    result: SearchResult, final: Final, *, model: Mapping[str, Any], budget: Budget, target: TargetDevice | None,
    seed: int, host: HostFacts | None = None, **beside: Any,
) -> dict[str, Any]:  # fmt: skip
    """The record, without schema and version; candidates by rising cost, accuracies as fractions.

    Args:
        model: The model's card, or any JSON object that says which model it is.
        beside: What else is known: ``precisions`` in which images were evaluated by the ``search`` and in the
            ``final`` round, ``baseline_models`` of the user and ``baselines_left_out`` with the ``reason``.
    """
    accuracy = result.dense.accuracy
    assert accuracy is not None  # a search whose dense model fails has no result
    finalists = {
        "measured": [candidate.as_record() for candidate in final.measured if candidate.latency is not None],
        "not_measured": [candidate.as_record() for candidate in final.not_measured],
    }
    beside = {"baseline_models": (), "baselines_left_out": (), "precisions": {}} | beside
    return {
        "model": dict(model),
        "budgets": budget.texts(),
        "split": accuracy.split,
        "metric": accuracy.metric,
        "seed": seed,
        "evaluations": result.evaluations,
        "hypervolume": result.hypervolume,
        "target": None if target is None else target.as_record(),
        "verdict": str(final.verdict),
        "objectives": [_AXES[final.cost], accuracy.metric],
        "chosen": final.chosen,
        "candidates": [candidate.as_record() for candidate in final.candidates],
        "baselines": [candidate.as_record() for candidate in final.baselines],
        "measured_over_budget": final.over,
        "undecided": [] if final.pick is None else list(final.pick.undecided(budget)),
        "host": None if host is None else host.as_record(),
        # Every finalist, on the front or not, and those for which no time was left.
        **{name: records for name, records in finalists.items() if records},
        # Models that were evaluated and measured to choose by, and images that judge the floors and had no say.
        "selection": {"evaluated": final.among, "measured": len(final.measured), "held_out": final.held_out},
        "stopped_because": result.stopped_because,
        "seconds": round(result.seconds, 3),
        "history": [round(volume, 6) for volume in result.history],
        **encode({name: value for name, value in beside.items() if value is not None}),
    }


def write_candidates(folder: Path, result: SearchResult, final: Final) -> Path:
    """Write every evaluated candidate, one a line, in the order of evaluation; its path."""
    measured = {candidate.schedule: candidate for candidate in (*final.measured, *final.baselines, *final.candidates)}
    front = {candidate.schedule for candidate in final.candidates}
    lines = [
        _row(number, measured.get(candidate.schedule, candidate), candidate.schedule in front, seconds)
        for number, (candidate, seconds) in enumerate(zip_longest(result.candidates, result.clock))
    ]
    path = Path(folder) / CSV_FILE
    atomic_text(path, csv_text(list(lines[0]), [list(line.values()) for line in lines]))
    return path


def _row(number: int, candidate: Candidate, on_front: bool, seconds: float | None) -> dict[str, Any]:
    accuracy, latency = candidate.accuracy, candidate.latency

    def rounded(known: Any, name: str, digits: int) -> float | str:
        return "" if known is None or getattr(known, name) is None else round(getattr(known, name), digits)

    return {
        "number": number,
        "origin": candidate.origin,
        "schedule": str(candidate.schedule),
        "macs": candidate.macs,
        "metric": "" if accuracy is None else accuracy.metric,
        "value": rounded(accuracy, "value", 6),
        "n": "" if accuracy is None else accuracy.n,
        **{name: rounded(accuracy, name, 6) for name in ("low", "high")},
        "predicted_ms": rounded(candidate, "latency_predicted_ms", 4),
        "median_ms": rounded(latency, "median", 4),
        "p90_ms": rounded(latency, "p90", 4),
        "on_front": int(on_front),
        "seconds": "" if seconds is None else round(seconds, 3),
        "verdict": candidate.verdict or "",
    }


def front_frame(result: SearchResult | Mapping[str, Any] | Path | str) -> pandas.DataFrame:
    """One row a candidate of the front, by rising cost.

    Args:
        result: Result of ``search``, or a ``front.json``: its path, its folder or what it holds.

    Returns:
        Columns ``schedule`` (text), ``counts``, ``macs``, each metric by its name, ``low`` and ``high`` of the first
        metric's 95 % interval, ``n``, the latencies in ms as ``predicted``, ``median``, ``p90``, ``p99`` (NaN where
        there is none), ``origin`` and ``verdict``.

    Raises:
        MissingDependency: pandas is not installed.
        RecordError: There is no front.
    """
    if isinstance(result, SearchResult):  # no front holds a failure
        records = [
            (candidate.as_record(), candidate.accuracy.metric) for candidate in result.front if candidate.accuracy
        ]
    else:
        if not isinstance(result, Mapping):
            path = Path(result) / FRONT_FILE if Path(result).is_dir() else Path(result)
            with reading(path):
                return front_frame(read_record(path, "front"))
        records = [(record, result["metric"]) for record in result["candidates"]]
    rows = []
    for record, metric in records:
        times, others = record["latency_ms"] or {}, record.get("others", {})
        rows.append({
            "schedule": str(Configuration.from_record(record)),
            "counts": tuple(record["schedule"]),
            **{name: record[name] for name in ("macs", metric)},
            **{name: other["value"] for name, other in others.items()},
            **dict(zip(("low", "high"), record["ci95"], strict=True)),
            "n": record["n"],
            **{name: times.get(name) for name in ("predicted", "median", "p90", "p99")},
            **{name: record[name] for name in ("origin", "verdict")},
        })  # fmt: skip
    columns = "schedule counts macs low high n predicted median p90 p99 origin verdict".split()  # of an empty front
    return frame(rows, None if records else columns)

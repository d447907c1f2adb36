"""What a search leaves behind: ``front.json`` and ``candidates.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tavt_kit.core.budget import Budget
from tavt_kit.core.candidate import Baseline, Candidate
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.host import HostFacts
from tavt_kit.core.records import atomic_text, write_record
from tavt_kit.search.finalists import Final
from tavt_kit.search.result import SearchResult

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
    result: SearchResult,
    final: Final,
    *,
    model: Mapping[str, Any],
    budget: Budget,
    target: TargetDevice | None,
    seed: int,
    host: HostFacts | None = None,
    precisions: Mapping[str, str] | None = None,
    baseline_models: Sequence[Baseline] = (),
    left_out: Sequence[Mapping[str, str]] = (),
    gene_ablation: Sequence[Mapping[str, Any]] = (),
    memory: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record, without schema and version; candidates by rising cost, accuracies as fractions.

    Args:
        result: What the search found.
        final: What was measured and chosen.
        model: The model's card, or any JSON object that says which model it is.
        budget: What was asked.
        target: Where latencies were measured; ``None`` without any.
        seed: Of the search.
        host: The machine.
        precisions: In which images were evaluated by the ``search``, and in the ``final`` round.
        baseline_models: Models that are no schedules of this one, judged by the same budget.
        left_out: Those that could not be had: ``name`` and ``reason``.
        gene_ablation: Of a joint search, what each gene of the choice changes.
        memory: How peak memory was measured; ``None`` where it was not asked about.
    """
    accuracy = result.dense.accuracy
    assert accuracy is not None  # a search whose dense model fails has no result
    return {
        "model": dict(model),
        "target": None if target is None else target.as_record(),
        "budgets": budget.texts(),
        "split": accuracy.split,
        "metric": accuracy.metric,
        "seed": seed,
        "evaluations": result.evaluations,
        "hypervolume": result.hypervolume,
        "verdict": str(final.verdict),
        "objectives": [_AXES[final.cost], accuracy.metric, *(_AXES.get(axis, axis) for axis in result.front.more)],
        "chosen": final.chosen,
        "candidates": [candidate.as_record() for candidate in final.candidates],
        "baselines": [candidate.as_record() for candidate in final.baselines],
        "baseline_models": [one.as_record() for one in baseline_models],
        "baselines_left_out": [dict(one) for one in left_out],
        "gene_ablation": [dict(one) for one in gene_ablation],
        "measured_over_budget": final.over,
        "selection": _selection(final),
        "undecided": [] if final.pick is None else list(final.pick.undecided(budget)),
        "stopped_because": result.stopped_because,
        "seconds": round(result.seconds, 3),
        "history": [round(volume, 6) for volume in result.history],
        "precisions": dict(precisions or {}),
        "host": None if host is None else host.as_record(),
        **_measured(final),
        **({} if memory is None else {"memory": dict(memory)}),
    }


def settled_body(
    body: Mapping[str, Any], final: Final, budget: Budget, *, target: TargetDevice, host: HostFacts
) -> dict[str, Any]:
    """The record after its latencies were measured on another machine; what the search itself found stays.

    Args:
        body: As it was.
        final: Measured and chosen anew.
        budget: What was asked.
        target: Where the latencies were measured.
        host: That machine.
    """
    return {
        **{
            key: value
            for key, value in body.items()
            if key not in ("schema", "version", "layers", "measured", "not_measured")
        },
        "target": target.as_record(),
        "verdict": str(final.verdict),
        "objectives": [_AXES[final.cost], *body["objectives"][1:]],
        "chosen": final.chosen,
        "candidates": [candidate.as_record() for candidate in final.candidates],
        "baselines": [candidate.as_record() for candidate in final.baselines],
        "measured_over_budget": final.over,
        "undecided": [] if final.pick is None else list(final.pick.undecided(budget)),
        "host": host.as_record(),
        **_measured(final),
    }


def _selection(final: Final) -> dict[str, int]:
    """Models that were evaluated and measured to choose by, and images that judge the floors and had no say."""
    return {"evaluated": final.among, "measured": len(final.measured), "held_out": final.held_out}


def _measured(final: Final) -> dict[str, Any]:
    """Every finalist that was measured, on the front or not, and those for which no time was left."""
    found = {
        "measured": [one.as_record() for one in final.measured if one.latency is not None],
        "not_measured": [one.as_record() for one in final.not_measured],
    }
    return {name: records for name, records in found.items() if records}


def write_front(folder: Path, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``front.json``; what was written."""
    return write_record(Path(folder) / FRONT_FILE, "front", body)


def write_candidates(folder: Path, result: SearchResult, final: Final) -> Path:
    """Write every evaluated candidate, one a line, in the order of evaluation; its path."""
    measured = {one.schedule: one for one in (*final.measured, *final.baselines, *final.candidates)}
    sized = any(one.memory for one in final.measured)
    front = {one.schedule for one in final.candidates}
    lines = [
        _row(number, measured.get(one.schedule, one), one.schedule in front, seconds, sized)
        for number, (one, seconds) in enumerate(zip_longest(result.candidates, result.clock))
    ]
    path = Path(folder) / CSV_FILE
    atomic_text(path, _csv(lines))
    return path


def update_candidates(folder: Path, final: Final) -> None:
    """Put what was measured on another machine into ``candidates.csv``, where there is one."""
    path = Path(folder) / CSV_FILE
    if not path.is_file():
        return
    measured = {str(one.schedule): one for one in final.measured}
    front = {str(one.schedule) for one in final.candidates}
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["on_front"] = str(int(line["schedule"] in front))
        one = measured.get(line["schedule"])
        if one is not None and one.latency is not None:
            line |= {"median_ms": str(_ms(one.latency.median)), "p90_ms": str(_ms(one.latency.p90))}
            line["verdict"] = str(one.verdict)
    atomic_text(path, _csv(lines))


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _row(number: int, candidate: Candidate, on_front: bool, seconds: float | None, sized: bool) -> dict[str, Any]:
    accuracy, latency = candidate.accuracy, candidate.latency
    return {
        "number": number,
        "origin": candidate.origin,
        "schedule": str(candidate.schedule),
        "macs": candidate.macs,
        "metric": "" if accuracy is None else accuracy.metric,
        "value": "" if accuracy is None else round(accuracy.value, 6),
        "n": "" if accuracy is None else accuracy.n,
        "low": "" if accuracy is None else round(accuracy.low, 6),
        "high": "" if accuracy is None else round(accuracy.high, 6),
        "predicted_ms": _ms(candidate.latency_predicted_ms),
        "median_ms": "" if latency is None else _ms(latency.median),
        "p90_ms": "" if latency is None else _ms(latency.p90),
        **({"peak_bytes": max(candidate.memory, default="")} if sized else {}),
        "on_front": int(on_front),
        "seconds": "" if seconds is None else round(seconds, 3),
        "verdict": candidate.verdict or "",
    }


def _ms(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)

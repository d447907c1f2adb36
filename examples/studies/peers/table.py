"""The table: accuracy on test with paired differences to dense, latency beside it, and where ours loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peers.answers import Known
from peers.plan import DENSE, OURS, Row
from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.measurement import Measurement
from tavt_kit.evaluation.result import paired


def figures(rows: Sequence[Row], known: Mapping[str, Known], benched: Sequence[Any]) -> list[dict[str, Any]]:
    """JSON-ready, one entry a row.

    Args:
        rows: Dense first.
        known: Row's name -> its answers.
        benched: One record of ``latencies`` for each target.
    """
    dense = known[DENSE]
    found = []
    for row in rows:
        mine = known[row.name]
        found.append({
            "name": row.name,
            "method": row.method,
            "strength": row.strength,
            "schedule": None if row.schedule is None else list(row.schedule.counts),
            "macs": mine.macs,
            "top1": Accuracy.of_counts(int(mine.right.sum()), len(mine.right), split="test").as_record(),
            "against_dense": paired(dense.right, mine.right).as_record(),
            "latency": {one["target"]: timed(one, row.name) for one in benched},
        })  # fmt: skip
    return found


def timed(record: Any, name: str) -> dict[str, Any] | None:
    """Median, spread and ratio of a row on one target; a sentence where it does not run; None where it is not asked."""
    if name in record["refused"]:
        return {"refused": record["refused"][name]}
    for one in record["bench"]["candidates"]:
        if one["name"] == name:
            times = Measurement.from_record(one["latency_ms"])
            return {"median": times.median, "p10": times.p10, "p90": times.p90, "steady": times.steady,
                    "dense_over": one["ratio"]}  # fmt: skip
    return None


def losses(entries: Sequence[Mapping[str, Any]], known: Mapping[str, Known], target: str) -> Iterator[str]:
    """One sentence for each row of others that no schedule of ours beats: as fast or faster, and more accurate.

    Ours are those of ``plan.OURS``, in INT8 against a row in INT8. Of them the most accurate on test that is no slower
    stands against the row, which favours ours. Other rows of the kit (tapers) are no peers.
    """
    for entry in entries:
        at = median(entry, target)
        if at is None or entry["method"].startswith("ours") or entry["method"] == DENSE:
            continue
        methods = OURS if entry["method"] != "INT8 alone" else tuple(f"{method} + INT8" for method in OURS)
        mine = [one for one in entries if one["method"] in methods and median(one, target) is not None]
        able = [one for one in mine if (median(one, target) or at + 1) <= at]
        if not able:
            fastest = min(mine, key=lambda one: median(one, target) or at)
            apart = paired(known[fastest["name"]].right, known[entry["name"]].right)
            yield f"{entry['name']} ({at:.2f} ms): none of ours is as fast; {points(apart)} points against the fastest."
            continue
        best = max(able, key=lambda one: float(one["top1"]["value"]))
        apart = paired(known[best["name"]].right, known[entry["name"]].right)
        if apart.difference > 0:
            sure = "the interval above 0" if apart.low > 0 else "which may be chance"
            yield f"{entry['name']} ({at:.2f} ms) against {best['name']}: {points(apart)} points, {sure}."


def median(entry: Mapping[str, Any], target: str) -> float | None:
    """Milliseconds, where known."""
    times = entry["latency"].get(target)
    return None if times is None or "median" not in times else float(times["median"])


def markdown(entries: Sequence[Mapping[str, Any]], targets: Sequence[str]) -> str:
    """A table of all rows."""
    head = ["network", "GMACs", "top-1 on test, % [95 %]", "against dense, points"]
    for target in targets:
        head += [f"ms, {short(target)}", "speed"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for entry in entries:
        top1 = Accuracy.from_record(entry["top1"])
        cells = [
            entry["name"],
            f"{entry['macs'] / 1e9:.2f}",
            f"{100 * top1.value:.1f} [{100 * top1.low:.1f}, {100 * top1.high:.1f}]",
            "" if entry["method"] == DENSE else points(PairedDifference.from_record(entry["against_dense"])),
        ]
        for target in targets:
            cells += latency_cells(entry["latency"].get(target))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def latency_cells(times: Mapping[str, Any] | None) -> list[str]:
    if times is None:
        return ["", ""]
    if "refused" in times:
        return ["does not export", ""]
    ratio, unsure = times["dense_over"], "" if times["steady"] else ", unsteady"
    return [
        f"{times['median']:.2f}{unsure}",
        f"{ratio['value']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]",
    ]


def points(difference: PairedDifference) -> str:
    value, low, high = (100 * share for share in (difference.difference, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def short(target: str) -> str:
    """``openvino:cpu:threads=2:precision=f32:batch=1`` -> ``openvino f32``."""
    parts = target.split(":")
    precision = next((part.removeprefix("precision=") for part in parts if part.startswith("precision=")), "f32")
    return f"{parts[0]} {precision}"

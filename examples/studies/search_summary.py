"""Rows of ``search_cost`` over seeds: factors and differences of hypervolumes with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import t as student
from search_compared import SHARES


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of the factors with 95 % intervals over seeds, and differences of hypervolumes."""
    found: dict[str, Any] = {"nsga2": _factors([row["nsga2"]["factor"] for row in rows])}
    for name in ("nsga2", *rows[0]["variants"]):
        apart = [_ahead_by_then(row, row["nsga2"] if name == "nsga2" else row["variants"][name]) for row in rows]
        known = [value for value in apart if value is not None]
        if len(known) == len(rows):
            found[f"{name} volume_val less official after as many evaluations"] = _interval(known)
    for name in rows[0]["variants"]:
        for kind in ("factor", "factor_f32", "factor_to_last_gain"):
            found[f"{name} {kind}"] = _factors([row["variants"][name][kind] for row in rows])
        for split in ("val", "test"):
            key = f"front_volume_{split}"
            apart = [row["variants"][name][key] - row["official"][key] for row in rows]
            found[f"{name} volume_{split} less official"] = _interval(apart)
            for share in SHARES:
                early = [row["variants"][name]["early"][share] for row in rows]
                apart = [one[key] - row["official"][key] for one, row in zip(early, rows, strict=True) if one]
                if apart:
                    found[f"{name} volume_{split} at 1/{share} of its seconds less official"] = _interval(apart)
    return found


def _ahead_by_then(row: dict[str, Any], one: dict[str, Any]) -> float | None:
    """Volume on val less what the official search had after as many evaluations; ``None`` where that is not known."""
    plain = row["nsga2"]
    if one["evaluations"] != plain["evaluations"] or "official_volume_then" not in plain:
        return None
    return float(one["front_volume_val"] - plain["official_volume_then"])


def _factors(given: Sequence[float | None]) -> dict[str, Any]:
    """Over the seeds that reached the volume; how many did stands beside it."""
    values = [math.log(value) for value in given if value is not None]
    found: dict[str, Any] = {"reached": len(values), "of": len(given)}
    if values:
        logs = _interval(values)
        ends = None if logs["ci95"] is None else [math.exp(end) for end in logs["ci95"]]
        found |= {"mean": math.exp(logs["mean"]), "ci95": ends}
    return found


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its 95 % interval, by Student's t; no interval for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "ci95": None}
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "ci95": [mean - half, mean + half]}

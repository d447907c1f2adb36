"""The sober question of ``search_cost``: does a searched schedule beat the best simple one at one latency, on test?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from search_ground import Ground

from tavt_kit.bench import Protocol
from tavt_kit.bench.latency_table import measure_schedules, measure_table
from tavt_kit.core.device import TargetDevice
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search import SearchResult
from tavt_kit.search.proposals import stages, taper

SHARES = (0.45, 0.55, 0.7)
"""Latencies at which the question is asked, of the dense model's."""


def sober(ground: Ground, target: TargetDevice, searched: Mapping[int, SearchResult]) -> list[dict[str, Any]]:
    """At each latency, on test: the searched schedules of all seeds against the best taper and stage schedule."""
    table = measure_table(ground.model, target, rng=np.random.default_rng(0))
    families = {name: list(dict.fromkeys(make(ground.space, float(ratio)) for ratio in np.linspace(0.01, most, 80)))
                for name, make, most in (("taper", taper, 0.6), ("stages", stages, 0.9))}  # fmt: skip
    rows = []
    for share in SHARES:
        most = share * table.predict(ground.space.dense)
        within = {name: [one for one in family if table.predict(one) <= most] for name, family in families.items()}
        for seed, result in searched.items():
            fast = [one for one in result.whole if table.predict(one.schedule) <= most]
            ranked = sorted(fast, key=lambda one: -one.metric)[:10]  # exact scores of the first ones decide
            within[f"searched {seed}"] = [one.schedule for one in ranked]
        row: dict[str, Any] = {"share_of_dense": share, "predicted_ms": most}
        if too_slow := [name for name, known in within.items() if not known]:
            row["too_slow"] = too_slow
        picks = {name: _best(ground, known) for name, known in within.items() if known}
        if any(name in picks for name in families) and any(name.startswith("searched") for name in picks):
            row |= _answered(ground, target, picks)
        rows.append(row)
    return rows


def _best(ground: Ground, schedules: Sequence[TokenSchedule]) -> TokenSchedule:
    scores = ground.score("val", schedules)
    return max(zip(scores, schedules, strict=True), key=lambda pair: pair[0])[1]


def _answered(ground: Ground, target: TargetDevice, picks: dict[str, TokenSchedule]) -> dict[str, Any]:
    """Where a family has no schedule that fast, the other one is compared alone."""
    protocol = Protocol(min_seconds=3.0, max_seconds=20.0, min_runs=60, warmup_seconds=1.0)
    names, rng = list(picks), np.random.default_rng(0)
    order = [ground.space.dense, *(picks[name] for name in names)]
    unique = list(dict.fromkeys(order))
    runs = measure_schedules(ground.model, target, unique, protocol, rng)
    times = dict(zip(unique, runs, strict=True))
    right = {name: ground.exact["test"].correct(one).astype(float) for name, one in picks.items()}
    mean = np.mean([bits for name, bits in right.items() if name.startswith("searched")], axis=0)
    row: dict[str, Any] = {"dense_ms": times[ground.space.dense].median}
    for name in names:
        row[name] = {"schedule": str(picks[name]), "test": float(right[name].mean()),
                     "median_ms": times[picks[name]].median, "p90_ms": times[picks[name]].p90,
                     "val": ground.score("val", [picks[name]])[0]}  # fmt: skip
    for family in sorted({"taper", "stages"} & set(picks)):
        apart = mean - right[family]  # of each image, the mean over seeds
        half = 1.96 * float(apart.std(ddof=1)) / math.sqrt(len(apart))
        value = float(apart.mean())
        answer = "yes" if value - half > 0 else "no, it is worse" if value + half < 0 else "no, not to be told apart"
        row[f"beats_{family}"] = {"difference": value, "ci95": [value - half, value + half], "answer": answer}
    return row

"""What each lever is worth, for ``search_cost``: seconds of whole passes, quick evaluators, and if these rank alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from official_search import Table
from search_agreement import agreement
from search_ground import Ground

from tavt_kit.bench.latency_table import random_schedules
from tavt_kit.core.measurement import Measurement, paired_ratio
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.search import Costs, Store, search

SAMPLE, ROUNDS = 24, 3
"""Schedules whose whole passes are timed, and how often each."""

RANKED = 40


def seconds(ground: Ground, tables: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """For each precision a line through the seconds of whole passes over val: ``base + per_mac * macs``."""
    rng = np.random.default_rng(0)
    known = sorted({one for table in tables for one in table.schedules}, key=ground.formula.macs)
    picked = [known[i] for i in np.linspace(0, len(known) - 1, SAMPLE).astype(int)]
    ways = {precision: ground.one_by_one(precision) for precision in ground.precisions}
    taken: dict[str, dict[TokenSchedule, list[float]]] = {name: {one: [] for one in picked} for name in ways}
    for way in ways.values():
        way.logits(picked[0])  # the first pass finds memory and caches cold
    for _ in range(ROUNDS):
        for place in rng.permutation(len(picked)):
            for name, way in ways.items():
                begin = time.perf_counter()
                way.logits(picked[place])
                taken[name][picked[place]].append(time.perf_counter() - begin)
    macs = np.array([ground.formula.macs(one) for one in picked], dtype=float)
    return {name: _line(macs, [statistics.median(times[one]) for one in picked]) for name, times in taken.items()}


def _line(macs: NDArray[np.float64], seconds: Sequence[float]) -> dict[str, Any]:
    """Least squares, and how far it is off."""
    medians = np.array(seconds)
    per_mac, base = np.polyfit(macs, medians, 1)
    error = np.abs(base + per_mac * macs - medians) / medians
    return {"base": float(base), "per_mac": float(per_mac), "mean_error": float(error.mean()),
            "worst_error": float(error.max()), "macs": macs.tolist(), "medians": medians.tolist()}  # fmt: skip


def whole_passes(ground: Ground, slope: dict[str, Any], schedules: Iterable[TokenSchedule]) -> list[float]:
    """Modelled seconds of each."""
    macs = ground.formula.macs_many(np.array([one.counts for one in schedules]))
    taken: list[float] = (slope["base"] + slope["per_mac"] * macs).tolist()
    return taken


def levers(ground: Ground, algorithm: str) -> dict[str, Any]:
    """Factors of each lever on the same generations, paired by rounds; the base is one pass each in f32."""
    generations = [one for place, one in enumerate(_generations(ground, algorithm, 11)) if place in (0, 4, 10)]
    pixels, labels = ground.arrays("val")

    def shared(**named: Any) -> Evaluator:
        return Evaluator(ground.model, pixels, labels, ground.preprocessing, **named)

    ways = {
        "one by one, f32": ground.one_by_one("f32"),
        "shared prefixes, f32": shared(),
        "shared prefixes, f32, batches of a quarter": shared(tokens_at_once=1500),
        "shared prefixes, f32, batches four times as large": shared(tokens_at_once=24000),
        "one by one, bf16": ground.one_by_one("bf16"),
        "shared prefixes, bf16": shared(precision="bf16"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for generation in generations:
            for place in rng.permutation(len(ways)):
                name = list(ways)[place]
                taken[name].append(1e3 * passed(ways[name], generation, together=not name.startswith("one by one")))
    base = Measurement(tuple(taken["one by one, f32"]), steady=False)
    found: dict[str, Any] = {
        name: asdict(paired_ratio(base, Measurement(tuple(times), steady=False))) for name, times in taken.items()
    }
    return {"evaluators": found, "costs": _vectorised(ground)}


def passed(evaluator: Evaluator, generation: Sequence[TokenSchedule], *, together: bool = True) -> float:
    """Seconds of one generation, nothing remembered."""
    begin = time.perf_counter()
    if together:
        list(evaluator.look(generation, 0, len(evaluator.labels)))
    else:
        for one in generation:
            evaluator.logits(one)
    return time.perf_counter() - begin


def _generations(ground: Ground, algorithm: str, number: int) -> list[list[TokenSchedule]]:
    """The first generations of a search on exact scores."""
    found: list[list[TokenSchedule]] = []

    def answers(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        found.append(list(schedules))
        return ground.exact["val"].evaluate(schedules)

    search(ground.space, answers, costs=Costs(macs=ground.macs), evaluations=16 * number + 1, store=Store(None),
           algorithm=algorithm)  # fmt: skip
    return found[1:]  # the first is the dense model alone


def _vectorised(ground: Ground) -> dict[str, float]:
    """Microseconds of a schedule's multiply-adds, one by one and 10,000 at once."""
    rng = np.random.default_rng(0)
    some = [ground.space.decode(ground.space.sample(rng)) for _ in range(10_000)]
    counts = np.array([one.counts for one in some])
    begin = time.perf_counter()
    ground.formula.macs_many(counts)
    middle = time.perf_counter()
    for one in some[:500]:
        ground.formula.macs(one)
    return {"at_once": 1e6 * (middle - begin) / len(some), "one_by_one": 1e6 * (time.perf_counter() - middle) / 500}


def ranks(ground: Ground) -> dict[str, Any]:
    """How alike the quick evaluators rank random schedules."""
    model = ground.model
    drawn = random_schedules(model.layout, RANKED, np.random.default_rng(0))
    some = list(dict.fromkeys(ground.schedule(one.counts) for one in drawn))
    costs, exact = [ground.formula.macs(one) for one in some], ground.score("val", some)
    pixels, labels = ground.arrays("val")
    evaluator = Evaluator(model, pixels, labels, ground.preprocessing, precision="bf16")
    quick = [_accuracy(answer) for _, answer in evaluator.evaluate(some)]
    found = {"torch bf16": agreement(costs, exact, quick).as_record()}
    for first in (64, 128, 256):
        if first < len(labels):
            part = dict(ground.exact["val"].look(some, 0, first))
            quick = [_accuracy(part[one]) for one in some]
            found[f"the first {first} images"] = agreement(costs, exact, quick).as_record()
    return found


def _accuracy(answer: EvaluationResult) -> float:
    assert answer.accuracy is not None, answer.failure
    return answer.accuracy.value

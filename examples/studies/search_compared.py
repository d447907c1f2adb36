"""Our searches against the official one and NSGA-II without levers, for ``search_cost``: one row a seed."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from official_search import Table, running_volume
from search_ground import Ground
from search_levers import passed, whole_passes

from tavt_kit.core.accuracy import Accuracy
from tavt_kit.core.candidate import Candidate
from tavt_kit.core.records import atomic_text
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.evaluation.evaluator import Evaluator
from tavt_kit.evaluation.result import EvaluationResult
from tavt_kit.runtimes.torch_session import is_bf16_faster
from tavt_kit.search import Costs, SearchResult, Store, search
from tavt_kit.search.racing import Race

PLAIN = 250
"""Schedules of NSGA-II without levers."""

Slopes = dict[str, dict[str, Any]]
"""Lines of ``seconds`` by precision."""

Pay = Callable[[Sequence[TokenSchedule]], float]
"""Seconds that the exact scores of a front take."""

SHARES = (25, 10)
"""Our fronts are also looked at when they have taken so many times fewer seconds than the official search does."""


def _searched(
    ground: Ground, evaluate: Any, algorithm: str, evaluations: int, seed: int, store: Store, learn: Any = None
) -> SearchResult:
    return search(ground.space, evaluate, costs=Costs(macs=cache(ground.macs)), evaluations=evaluations, seed=seed,
                  store=store, learn=learn, algorithm=algorithm)  # fmt: skip


def ours(ground: Ground, given: argparse.Namespace, seed: int, variant: str) -> tuple[SearchResult, list[float]]:
    """A search of ours, from its store where it was made before; and the wall seconds after each evaluation.

    A generation's answers count when its last one is there. The algorithm's own time is what a search takes whose
    answers are all stored; it is spread evenly.
    """
    algorithm, _, screen = variant.partition(":")
    pixels, labels = ground.arrays("val")
    quickest = "bf16" if is_bf16_faster(torch.device("cpu")) else "f32"
    begin = time.perf_counter()
    precision = (given.evaluate_on or "").partition(":")[2] or quickest
    quick = Evaluator(ground.model, pixels, labels, ground.preprocessing, precision=precision)
    setup = time.perf_counter() - begin
    with Store(ground.out / f"{algorithm}-{screen}-{seed}.db") as store:
        store.bind({"asked": [given.evaluate_on, given.limit, given.run.name]})
        for again in (False, True):
            race = Race(quick.look, ground.macs, len(labels), int(screen) or len(labels))
            sizes: list[int] = []
            begin = time.perf_counter()
            result = _searched(ground, race, algorithm, given.evaluations, seed, store, _listening(race, sizes))
            own = time.perf_counter() - begin
            print(f"{variant}, seed {seed}: {result.evaluations} evaluations, {result.seconds:.0f} s"
                  f"{f', the algorithm {own:.1f} s' if again else ''}", flush=True)  # fmt: skip
    at = np.concatenate([np.full(size, end - 1) for size, end in zip(sizes, np.cumsum(sizes), strict=True)])
    clock = np.asarray(result.clock)[at] + own * (at + 1) / len(at) + setup
    return result, [float(each) for each in clock]


def _listening(race: Race, sizes: list[int]) -> Callable[[Sequence[tuple[TokenSchedule, EvaluationResult]]], None]:
    """Tells the race what it is to learn, and notes how large generations are."""

    def learn(answered: Sequence[tuple[TokenSchedule, EvaluationResult]]) -> None:
        sizes.append(len(answered))
        race.update(answered)

    return learn


def compared(ground: Ground, given: argparse.Namespace, seed: int, table: Table, slopes: Slopes) -> dict[str, Any]:
    """One seed: the official front, those of our variants (the first has all levers), and NSGA-II without levers.

    Seconds of whole passes are told in f32, which the official code pays for, and in the precision that counts.
    """
    official, slope = table.volumes(), slopes[ground.precision]
    each = whole_passes(ground, slope, table.schedules)
    table.write(ground.official_path(seed), each)
    plain = _plain(ground, given, seed)
    scores, passes = ground.score("val", plain), whole_passes(ground, slope, plain)
    volumes = running_volume(ground, plain, scores)
    last = next(number for number, volume in enumerate(official, start=1) if volume >= official[-1])
    row: dict[str, Any] = {
        "seed": seed,
        "official": {"evaluations": len(official), "seconds": sum(each), "volume": official[-1],
                     "seconds_f32": sum(whole_passes(ground, slopes["f32"], table.schedules)),
                     "last_gain": {"evaluations": last, "seconds": sum(each[:last])},
                     **_on_both(ground, ground.front(table.schedules, table.scores()))},
        "nsga2": {"evaluations": len(plain), "seconds": sum(passes), "volume": volumes[-1],
                  "factor": _time_to(volumes, passes, official[-1], sum(each)),
                  "official_volume_then": official[min(len(plain), len(official)) - 1],
                  **_on_both(ground, ground.front(plain, scores))},
    }  # fmt: skip
    row["variants"] = {name: _variant(ground, given, seed, name, slope, row["official"]) for name in given.variants}
    row["ours"] = row["variants"][given.variants[0]]
    return row


def _variant(
    ground: Ground, given: argparse.Namespace, seed: int, name: str, slope: dict[str, Any],
    official: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One of our searches against the official volume, its seconds in all, and those until it last gained."""
    result, clock = ours(ground, given, seed, name)
    shared: Pay = partial(_exact_seconds, ground, ground.out / f"{name.replace(':', '-')}-{seed}-exact.json")
    one_by_one: Pay = lambda front: sum(whole_passes(ground, slope, front))  # noqa: E731
    if given.evaluate_on == f"torch:{ground.precision}":  # these are the exact scores: never made again, nor paid for
        ground.learn(_whole(result))
        shared = one_by_one = lambda front: 0.0
    reached = _reached(ground, shared, result, clock, official["volume"])
    shares = {share: official["seconds"] / share for share in SHARES}
    return {
        "evaluations": result.evaluations, "seconds": clock[-1], "reached": reached, "looked_at": _looked(result),
        "factor": official["seconds"] / reached["seconds"] if reached else None,
        "factor_f32": official["seconds_f32"] / reached["seconds"] if reached else None,
        "factor_to_last_gain": official["last_gain"]["seconds"] / reached["seconds"] if reached else None,
        "early": {share: _early(ground, one_by_one, result, clock, least) for share, least in shares.items()},
        **_on_both(ground, _own_front(ground, result)),
    }  # fmt: skip


def _on_both(ground: Ground, front: Sequence[TokenSchedule]) -> dict[str, float]:
    """The exact hypervolume of a front on val, and on test."""
    return {f"front_volume_{split}": ground.volume(front, ground.score(split, front)) for split in ("val", "test")}


def _own_front(ground: Ground, result: SearchResult, first: int | None = None) -> list[TokenSchedule]:
    """The front as the search itself saw it after so many evaluations."""
    whole = _whole(result, first)
    return ground.front([one.schedule for one in whole], [one.metric for one in whole])


def _whole(result: SearchResult, first: int | None = None) -> list[Candidate]:
    """Of the first so many, those that were seen on all images."""
    seen = result.candidates[:first]
    return [one for one in seen if one.schedule not in result.estimates and one.accuracy is not None]


def _reached(
    ground: Ground, pay: Pay, result: SearchResult, clock: Sequence[float], wanted: float
) -> dict[str, Any] | None:
    """When our front, scored exactly, first had the hypervolume; those scores are paid for, once."""
    before: list[TokenSchedule] = []
    for number in range(1, result.evaluations + 1):
        front = _own_front(ground, result, number)
        if front == before:
            continue
        before = front
        volume = ground.volume(front, ground.score("val", front))
        if volume >= wanted:
            exact = pay(front)
            taken = clock[number - 1] + exact
            return {"evaluations": number, "seconds": taken, "exact_scores": exact, "volume": volume}
    return None


def _early(
    ground: Ground, pay: Pay, result: SearchResult, clock: Sequence[float], seconds: float
) -> dict[str, Any] | None:
    """Our front as it is after so many seconds, its exact scores among them."""
    for number in range(result.evaluations, 0, -1):
        if clock[number - 1] > seconds:
            continue
        front = _own_front(ground, result, number)
        taken = clock[number - 1] + pay(front)
        if taken <= seconds:
            front = ground.front(front, ground.score("val", front))
            return {"evaluations": number, "seconds": taken, **_on_both(ground, front)}
    return None


def _exact_seconds(ground: Ground, path: Path, front: Sequence[TokenSchedule]) -> float:
    """What it takes to score a front in f32 on all of val, by shared passes: measured once, and kept."""
    names = [str(one) for one in front]
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("front") != names:
        known = {"front": names, "seconds": passed(ground.exact["val"], front)}
        atomic_text(path, json.dumps(known, indent=1) + "\n")
    return float(known["seconds"])


def _time_to(volumes: Sequence[float], each: Sequence[float], wanted: float, official: float) -> float | None:
    """The official search's seconds over those until the hypervolume is reached; ``None`` where it never is."""
    for number, volume in enumerate(volumes, start=1):
        if volume >= wanted:
            return official / sum(each[:number])
    return None


def _looked(result: SearchResult) -> float:
    """Share of all images that were looked at, over all evaluations."""
    sizes = [one.accuracy.n for one in result.candidates if one.accuracy is not None]
    return statistics.fmean(sizes) / max(sizes)


def _plain(ground: Ground, given: argparse.Namespace, seed: int) -> list[TokenSchedule]:
    """What NSGA-II without levers evaluates; its scores are exact, and kept with the others."""

    def answers(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, EvaluationResult]]:
        size = ground.size("val")
        for one, score in zip(schedules, ground.score("val", schedules), strict=True):
            yield one, EvaluationResult(Accuracy.of_counts(round(score * size), size, split="val"), 0.0)

    wanted = min(PLAIN, given.evaluations)
    return [one.schedule for one in _searched(ground, answers, "nsga2", wanted, seed, Store(None)).candidates]

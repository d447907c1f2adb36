"""What a search costs: ours against TAVT's official one and against NSGA-II without our levers, on one model.

    python examples/studies/search_cost.py RUN --out runs/search_cost --seeds 0,1,2,3,4

RUN is a distilled run with its split (the demo's, for example). Six parts, each of which goes on where it was stopped
and is skipped where its record exists (``--parts`` names some):

official  The official search (``official_search``): 1,822 schedules a seed. Its scores are exact; see there how they
          are had in less time than it would take. What it would take is modelled by ``seconds``.
seconds   Whole passes of a random sample of its schedules, one by one in f32, in random order, several times: seconds
          as a line over multiply-adds. MACs are taken as free, though the official code traces the model for each.
levers    The same generations evaluated with and without each lever, interleaved; and 10,000 costs in one call.
ranks     40 random schedules by each quick evaluator against the exact one.
ours      Our search with all levers, its clock running: wall seconds, those of its algorithm included. The front is
          then scored exactly, which costs what whole passes cost. And NSGA-II without levers, 250 schedules.
sober     At three latencies: the searched schedule, the best uniform taper and the best stage schedule, all chosen on
          val and measured against one another on --target, compared on test in pairs.

Time to reach is the first moment at which our front, scored exactly, has the hypervolume that the official front has
in the end, and the exact scores of that front. Costs are multiply-adds as executed, relative to the dense model, and
nothing counts as cheaper than the cheapest gene that the official search keeps. Writes ``search_cost.json`` and prints
the tables; test is read for the final scores alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from official_search import Table, official_table, running_volume
from scipy.stats import t as student
from search_ground import Ground
from search_levers import levers, ranks, seconds, whole_passes
from search_sober import sober
from search_tables import show

from tavt_kit.accuracy import Accuracy
from tavt_kit.answer import Answer
from tavt_kit.device import TargetDevice
from tavt_kit.host import HostFacts
from tavt_kit.openvino_evaluation import OpenvinoEvaluator
from tavt_kit.records import atomic_text
from tavt_kit.runtimes.on_torch import is_bf16_faster
from tavt_kit.schedule import TokenSchedule
from tavt_kit.search import Costs, SearchResult, Store, search
from tavt_kit.search.racing import Race
from tavt_kit.shared_evaluation import SharedEvaluator

PARTS = ("official", "seconds", "levers", "ranks", "ours", "sober")
PLAIN = 250
"""Schedules of NSGA-II without levers."""


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    ground = Ground(given.run, given.out, given.limit)
    seeds = given.seeds if "official" in given.parts else []
    tables = [official_table(ground, seed, given.iterations) for seed in seeds]
    record: dict[str, Any] = {"asked": {**vars(given), "run": given.run.name, "out": ""}}
    record["host"] = HostFacts.gather().as_record()
    makers: dict[str, Callable[[], Any]] = {
        "seconds": lambda: seconds(ground, tables),
        "levers": lambda: levers(ground, given.threads),
        "ranks": lambda: ranks(ground),
    }
    for name, make in makers.items():
        if name in given.parts:
            record[name] = kept(ground.out / f"{name}.json", make)
    if "ours" in given.parts:
        slope = record.get("seconds") or json.loads((ground.out / "seconds.json").read_text())
        rows = [compared(ground, given, seed, table, slope)
                for seed, table in zip(given.seeds, tables, strict=True)]  # fmt: skip
        record["ours"] = {"seeds": rows, "summary": summary(rows)}
    if "sober" in given.parts:
        target = TargetDevice.parse(given.target).resolved()
        path = ground.out / f"sober-{given.target.replace(':', '-')}.json"
        record["sober"] = kept(
            path, lambda: sober(ground, target, {seed: ours(ground, given, seed)[0] for seed in given.seeds})
        )
    atomic_text(ground.out / "search_cost.json", json.dumps(record, indent=1, default=str) + "\n")
    show(record)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a distilled run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--iterations", type=int, default=30, help="of the official search")
    parser.add_argument("--evaluations", type=int, default=500, help="of ours, at most")
    parser.add_argument("--algorithm", default="nsga2", help="of ours")
    parser.add_argument("--screen", type=int, default=128)
    parser.add_argument("--evaluate-on", default=None, help="e.g. openvino:bf16; default: torch, its faster precision")
    parser.add_argument("--target", default="openvino:cpu:threads=2", help="of the sober question")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=int, help="pictures of each split, for a trial")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    if "ours" in given.parts and "official" not in given.parts:
        parser.error("ours is compared with official: name both parts, what is recorded is read")
    return given


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was recorded, or is made now."""
    if not path.exists():
        atomic_text(path, json.dumps(make(), indent=1) + "\n")
    return json.loads(path.read_text())


def _searched(
    ground: Ground, evaluate: Any, algorithm: str, evaluations: int, seed: int, store: Store, learn: Any = None
) -> SearchResult:
    return search(ground.space, evaluate, costs=Costs(macs=ground.macs), evaluations=evaluations, seed=seed,
                  store=store, learn=learn, algorithm=algorithm)  # fmt: skip


def ours(ground: Ground, given: argparse.Namespace, seed: int) -> tuple[SearchResult, list[float]]:
    """Our search, from its store where it was made before; and the wall seconds after each evaluation."""
    runtime, _, precision = (given.evaluate_on or "torch").partition(":")
    quickest = "bf16" if is_bf16_faster(torch.device("cpu")) else "f32"
    kind: Any = OpenvinoEvaluator if runtime == "openvino" else SharedEvaluator
    quick = kind(ground.model, *ground.pictures("val"), ground.preprocessing, precision=precision or quickest)
    with Store(ground.out / f"ours-{seed}.db") as store:
        store.hold_to({"asked": [given.evaluate_on, given.screen, given.algorithm, given.limit, given.run.name]})
        for again in (False, True):  # the second time all answers are stored: what is left is the algorithm's own time
            race = Race(quick.look, ground.macs, len(quick.labels), given.screen or len(quick.labels))
            begin = time.perf_counter()
            result = _searched(ground, race, given.algorithm, given.evaluations, seed, store, race.learn)
            own = time.perf_counter() - begin
            print(f"ours, seed {seed}: {result.evaluations} evaluations, {result.seconds:.0f} s"
                  f"{f', the algorithm {own:.1f} s' if again else ''}", flush=True)  # fmt: skip
        spent = [store.get(one.schedule).seconds for one in result.candidates]  # type: ignore[union-attr]
    share = own / len(spent)
    return result, list(np.cumsum([each + share for each in spent]))


def compared(
    ground: Ground, given: argparse.Namespace, seed: int, table: Table, slope: dict[str, Any]
) -> dict[str, Any]:
    """One seed: the official front, ours, and that of NSGA-II without levers."""
    official = table.volumes()
    cost = whole_passes(ground, slope, table.schedules)
    result, clock = ours(ground, given, seed)
    reached = _reached(ground, slope, result, clock, official[-1])
    plain = _plain(ground, given, seed)
    plain_volumes = running_volume(ground, plain, ground.score("val", plain))
    fronts = {"official": ground.front(table.schedules, table.scores()), "ours": _own_front(ground, result),
              "nsga2": ground.front(plain, ground.score("val", plain))}  # fmt: skip
    last = next(i for i, volume in enumerate(official) if volume >= official[-1])
    row: dict[str, Any] = {
        "seed": seed,
        "official": {"evaluations": len(official), "seconds": sum(cost), "volume": official[-1],
                     "last_gain": {"evaluations": last + 1, "seconds": sum(cost[: last + 1])},
                     "volume_at_250": official[min(PLAIN, len(official)) - 1]},
        "ours": {"evaluations": result.evaluations, "seconds": clock[-1], "reached": reached,
                 "looked_at": _looked(result), "estimate_of_volume": result.hypervolume},
        "nsga2": {"evaluations": len(plain), "seconds": sum(whole_passes(ground, slope, plain)),
                  "volume": plain_volumes[-1]},
    }  # fmt: skip
    for name, front in fronts.items():
        for split in ("val", "test"):
            row[name][f"front_volume_{split}"] = ground.volume(front, ground.score(split, front))
    row["factor"] = sum(cost) / reached["seconds"] if reached else None
    row["factor_to_last_gain"] = row["official"]["last_gain"]["seconds"] / reached["seconds"] if reached else None
    row["factor_nsga2"] = _time_to(plain_volumes, whole_passes(ground, slope, plain), official[-1], sum(cost))
    return row


def _own_front(ground: Ground, result: SearchResult, first: int | None = None) -> list[TokenSchedule]:
    """The front as the search itself saw it after so many evaluations."""
    seen = result.candidates[:first]
    whole = [one for one in seen if one.schedule not in result.estimates and one.accuracy is not None]
    return ground.front([one.schedule for one in whole], [one.metric for one in whole])


def _reached(
    ground: Ground, slope: dict[str, Any], result: SearchResult, clock: Sequence[float], wanted: float
) -> dict[str, Any] | None:
    """When our front, scored exactly, first had the hypervolume; those exact scores are paid for, once."""
    before: list[TokenSchedule] = []
    for number in range(1, result.evaluations + 1):
        front = _own_front(ground, result, number)
        if front == before:
            continue
        before = front
        volume = ground.volume(front, ground.score("val", front))
        if volume >= wanted:
            exact = sum(whole_passes(ground, slope, front))
            taken = clock[number - 1] + exact
            return {"evaluations": number, "seconds": taken, "exact_scores": exact, "volume": volume}
    return None


def _time_to(volumes: Sequence[float], each: Sequence[float], wanted: float, official: float) -> float | None:
    """The official search's seconds over those until the hypervolume is reached; ``None`` where it never is."""
    for number, volume in enumerate(volumes, start=1):
        if volume >= wanted:
            return official / sum(each[:number])
    return None


def _looked(result: SearchResult) -> float:
    """Share of all pictures that were looked at, over all evaluations."""
    sizes = [one.accuracy.n for one in result.candidates if one.accuracy is not None]
    return statistics.fmean(sizes) / max(sizes)


def _plain(ground: Ground, given: argparse.Namespace, seed: int) -> list[TokenSchedule]:
    """What NSGA-II without levers evaluates; its scores are exact, and kept with the others."""

    def answers(schedules: Sequence[TokenSchedule]) -> Iterator[tuple[TokenSchedule, Answer]]:
        size = ground.size("val")
        for one, score in zip(schedules, ground.score("val", schedules), strict=True):
            yield one, Answer(Accuracy.of_counts(round(score * size), size, split="val"), 0.0)

    wanted = min(PLAIN, given.evaluations)
    return [one.schedule for one in _searched(ground, answers, "nsga2", wanted, seed, Store(None)).candidates]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of the factors with 95 % intervals over seeds, and differences of hypervolumes on test."""
    found: dict[str, Any] = {}
    for name in ("factor", "factor_to_last_gain", "factor_nsga2"):
        values = [row[name] for row in rows if row[name] is not None]
        found[name] = {"reached": len(values), "of": len(rows)}
        if values:
            mean, half = _interval([math.log(value) for value in values])
            found[name] |= {"mean": math.exp(mean), "ci95": [math.exp(mean - half), math.exp(mean + half)]}
    for split in ("val", "test"):
        apart = [row["ours"][f"front_volume_{split}"] - row["official"][f"front_volume_{split}"] for row in rows]
        mean, half = _interval(apart)
        found[f"volume_{split}_ours_less_official"] = {"mean": mean, "ci95": [mean - half, mean + half]}
    return found


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval, by Student's t; infinite for a single value."""
    if len(values) < 2:
        return statistics.fmean(values), math.inf
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(student.ppf(0.975, len(values) - 1)) * spread


if __name__ == "__main__":
    main()

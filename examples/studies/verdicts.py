"""Do verdicts keep their promise? Simulated and stored series on the line, and choices among many candidates.

    python examples/studies/verdicts.py --out examples/studies/results/verdicts.json

At most one verdict in twenty on something that is exactly at its limit may be PASS. The study counts how many are, by
today's rules and by those of before (runs as if independent, floors judged on the images that chose), and how many pass
of what is truly inside. Some fifteen minutes on one core.

- Latency: times whose logarithms are AR(1) of 0, 0.3, 0.6 and 0.9, with a standard deviation of 3 % as quiet stored
  series have; and every stored series of at least 60 runs, cut in thirds of its rounds, where the limit is the same
  quantile of the other two thirds. A third is steady where the bench's protocol would call it so.
- A choice by latency: a search measures its finalists, eight or more of the 50 to 300 that it evaluates, and takes one
  that seems proven. All of them are exactly at the limit. So that nothing hangs on who becomes a finalist, the same is
  counted where all 50 or 300 are measured.
- Floors: 50 or 300 candidates of which each is exactly at the limit. A search takes the first that seems proven, or
  else the best. One kind of search proposes independent candidates, the other always changes the best so far.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tavt_kit.core.accuracy import Accuracy, PairedDifference
from tavt_kit.core.host import HostFacts
from tavt_kit.core.latency_bounds import DOUBT, latency_bounds, quantile_bounds
from tavt_kit.core.measurement import Measurement, percentile
from tavt_kit.core.records import atomic_text

ROOT = Path(__file__).resolve().parents[2]
STORED = ("benchmarks/results/amd-epyc-2-cpus.json", "examples/studies/results/merging-times-65.json",
          "examples/studies/results/merging-times-197.json")  # fmt: skip
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
MEMORIES = (0.0, 0.3, 0.6, 0.9)
SPREAD, MS = 0.03, 20.0
LENGTHS = (60, 200, 1000, 3000)
"""Runs: 1, 4, 20 and 60 seconds of a model of 20 ms."""

Bits = NDArray[np.bool_]


def series(rng: np.random.Generator, n: int, memory: float) -> list[float]:
    """Times in ms."""
    noise, value, found = rng.standard_normal(n + 1), 0.0, list[float]()
    value = noise[n]
    for step in noise[:n]:
        found.append(MS * math.exp(SPREAD * value))
        value = memory * value + math.sqrt(1 - memory**2) * step
    return found


def true(quantile: float) -> float:
    return MS * math.exp(SPREAD * NormalDist().inv_cdf(quantile))


def as_if_independent(samples: list[float] | tuple[float, ...], quantile: float) -> float:
    """The upper bound of before: exact binomial ranks of all runs."""
    ordered, n, below = sorted(samples), len(samples), 0.0
    for rank in range(1, n + 1):
        log = math.lgamma(n + 1) - math.lgamma(rank) - math.lgamma(n - rank + 2)
        below += math.exp(log + (rank - 1) * math.log(quantile) + (n - rank + 1) * math.log1p(-quantile))
        if below >= 1 - DOUBT:
            return ordered[rank - 1]
    return math.inf


def latency_before(measured: Measurement, quantile: float) -> float:
    """Of an unsteady measurement the halves had to agree."""
    half = measured.n // 2
    parts = (measured.samples,) if measured.steady else (measured.samples, measured.samples[:half],
                                                         measured.samples[half:])  # fmt: skip
    return max(as_if_independent(part, quantile) for part in parts)


def simulated_latency(rng: np.random.Generator, draws: int) -> list[dict[str, Any]]:
    """How often each rule passes what is at its limit, and today's what is 1 to 8 % inside."""
    rows = []
    for memory in MEMORIES:
        for n in LENGTHS:
            drawn = [series(rng, n, memory) for _ in range(draws)]
            for name, quantile in QUANTILES.items():
                before = [as_if_independent(one, quantile) for one in drawn]
                after = [quantile_bounds(one, quantile)[1] for one in drawn]
                line = true(quantile)
                rows.append({
                    "memory": memory, "runs": n, "statistic": name, "draws": draws,
                    "false_pass_before": float(np.mean([one <= line for one in before])),
                    "false_pass": float(np.mean([one <= line for one in after])),
                    "power": {str(gap): float(np.mean([one <= line * (1 + gap / 100) for one in after]))
                              for gap in (1, 2, 3, 5, 8)},
                })  # fmt: skip
        print(f"AR(1) {memory} is done", flush=True)
    return rows


def thirds() -> Iterator[tuple[Measurement, tuple[float, ...]]]:
    """A third of a stored series, and the other runs of it."""
    for name in STORED:
        for row in json.loads((ROOT / name).read_text(encoding="utf-8"))["candidates"]:
            whole = Measurement.from_record(row["latency_ms"])
            if whole.n < 60:
                continue
            ends = [len(whole.rounds) * part // 3 for part in range(4)]
            for start, stop in zip(ends, ends[1:], strict=False):
                first, last, rounds = sum(whole.rounds[:start]), sum(whole.rounds[:stop]), whole.rounds[start:stop]
                part = Measurement(whole.samples[first:last], True, rounds)
                steady = len(rounds) >= 6 and part.relative_half_width <= 0.01
                yield Measurement(part.samples, steady, rounds), whole.samples[:first] + whole.samples[last:]


def stored_latency() -> list[dict[str, Any]]:
    """The same of stored series, where what is 5 % inside is the same third against a limit 5 % higher."""
    rows = []
    for name, quantile in QUANTILES.items():
        counts = dict.fromkeys(("thirds", "steady", "before", "before_steady", "after", "after_steady", "inside"), 0)
        for part, rest in thirds():
            line = percentile(rest, quantile)
            old, new = latency_before(part, quantile) <= line, latency_bounds(part, name)[1] <= line
            counts["thirds"] += 1
            counts["steady"] += part.steady
            counts["before"] += old
            counts["before_steady"] += old and part.steady
            counts["after"] += new
            counts["after_steady"] += new and part.steady
            counts["inside"] += part.steady and latency_bounds(part, name)[1] <= 1.05 * line
        rows.append({"statistic": name, **counts})
    return rows


MEASURED = (8, 50, 300)
"""Candidates that are measured and chosen from."""


def chosen_latency(rng: np.random.Generator, searches: int) -> list[dict[str, Any]]:
    """How often a search ends with PASS whose candidates are all at the limit, and what is inside passes among them.

    *Before*, the bound of each was that of one measured alone. A search of 50 has the first 50 of one of 300.
    """
    rows = []
    for memory in MEMORIES:
        for n in LENGTHS[1:]:
            passed = {(name, number): [0, 0] for name in QUANTILES for number in MEASURED}
            for _ in range(searches):
                drawn = many_series(rng, max(MEASURED), n, memory)
                for (name, number), counts in passed.items():
                    for now, doubt in enumerate((DOUBT, DOUBT / number)):
                        counts[now] += any_passes(drawn[:number], QUANTILES[name], doubt)
            inside = many_series(rng, searches, n, memory).astype(float).tolist()
            for (name, number), (before, now) in passed.items():
                line = true(QUANTILES[name])
                highest = [quantile_bounds(one, QUANTILES[name], DOUBT / number)[1] / line for one in inside]
                rows.append({
                    "memory": memory, "runs": n, "statistic": name, "measured": number, "draws": searches,
                    "false_pass_before": before / searches, "false_pass": now / searches,
                    "power": {str(gap): float(np.mean([one <= 1 + gap / 100 for one in highest])) for gap in (2, 5, 8)},
                })  # fmt: skip
        print(f"choices at AR(1) {memory} are done", flush=True)
    return rows


def many_series(rng: np.random.Generator, number: int, n: int, memory: float) -> NDArray[np.float32]:
    """(number, n) times in ms, as ``series`` draws them."""
    noise = rng.standard_normal((n, number), np.float32)
    for run in range(1, n):
        noise[run] = memory * noise[run - 1] + math.sqrt(1 - memory**2) * noise[run]
    return np.ascontiguousarray((MS * np.exp(SPREAD * noise)).T)


def any_passes(drawn: NDArray[np.float32], quantile: float, doubt: float) -> bool:
    """Whether the upper bound of one of (number, n) times is below the true quantile.

    A bound is no lower than where all runs count as independent; what is not even near that one is not looked at.
    """
    line, n = true(quantile), drawn.shape[1]
    z = max(0.0, NormalDist().inv_cdf(1 - doubt) - 1)  # a standard deviation as a margin
    most = n * (1 - quantile) - z * math.sqrt(n * quantile * (1 - quantile))
    likely = drawn[(drawn > line).sum(axis=1) <= most].astype(float)
    return any(quantile_bounds(one.tolist(), quantile, doubt)[1] <= line for one in likely)


class Images:
    """Answers of candidates to some images; each candidate has exactly the accuracy of the limit.

    Args:
        rng: Of everything drawn.
        n: Images.
        dense: Accuracy of the dense model.
        loss: By how much each candidate is truly worse.
        gain: Share of all images that a candidate alone has right.
    """

    def __init__(self, rng: np.random.Generator, n: int, dense: float, loss: float, gain: float = 0.02) -> None:
        self.rng, self.n, self.dense, self.loss, self.gain = rng, n, dense, loss, gain
        self.right = rng.random(n) < dense

    def answer(self) -> Bits:
        """Of a new candidate."""
        lost = self.rng.random(self.n) < (self.loss + self.gain) / self.dense
        gained = self.rng.random(self.n) < self.gain / (1 - self.dense)
        return np.where(self.right, ~lost, gained)

    def child(self, parent: Bits) -> Bits:
        """Of a candidate that answers nine of ten images as its parent does."""
        return np.where(self.rng.random(self.n) < 0.9, parent, self.answer())


Bounds = Callable[[Bits, Bits, float], float]
"""Of the dense model's answers, a candidate's, and how often it may be wrong: a lower bound less the limit."""


def by_drop(limit: float) -> Bounds:
    return lambda dense, own, doubt: limit + drop_bound(*flips(dense, own), len(own), doubt)


def by_share(limit: float) -> Bounds:
    return lambda dense, own, doubt: share_bound(int(own.sum()), len(own), doubt) - limit


def before_drop(limit: float) -> Bounds:
    """Tango's two-sided interval of before."""
    return lambda dense, own, doubt: limit + PairedDifference.of_counts(*flips(dense, own), len(own)).low


def before_share(limit: float) -> Bounds:
    """Wilson's two-sided interval of before."""
    return lambda dense, own, doubt: Accuracy.of_counts(int(own.sum()), len(own), split="val").low - limit


def flips(dense: Bits, own: Bits) -> tuple[int, int]:
    return int((own & ~dense).sum()), int((dense & ~own).sum())


@cache
def drop_bound(gained: int, lost: int, n: int, doubt: float) -> float:
    return PairedDifference.of_counts(gained, lost, n).bounds(doubt)[0]


@cache
def share_bound(correct: int, n: int, doubt: float) -> float:
    return Accuracy.of_counts(correct, n, split="val").bounds(doubt)[0]


FLOORS: dict[str, tuple[float, int, Bounds, Bounds]] = {
    "drop=1": (0.88, 1, by_drop(0.01), before_drop(0.01)),
    "top1=87%": (0.88, 1, by_share(0.87), before_share(0.87)),
    "recall[a]=87%": (0.88, 5, by_share(0.87), before_share(0.87)),
}
"""Accuracy of the dense model, one image of how many is of the class, the bound of today and that of before."""


def choices(rng: np.random.Generator, draws: int) -> list[dict[str, Any]]:
    """How often a search over candidates at the limit ends with PASS: of 1,000 images half judge now.

    Beside the rule of before, on all images, stands what was tried and refused: a bound that allows for the number of
    candidates (Bonferroni). A search that learns from its answers beats it, because its candidates are made to fit.
    """
    rows = []
    for name, (dense, part, today, before) in FLOORS.items():
        for number in (50, 300):
            for evolves in (False, True):
                passed = dict.fromkeys(("before", "bonferroni"), 0)
                for _ in range(draws):
                    whole = Images(rng, 1000 // part, dense, 0.01)
                    answers = list(proposed(whole, number, evolves))
                    passed["before"] += any(before(whole.right, one, DOUBT) >= 0 for one in answers)
                    passed["bonferroni"] += any(today(whole.right, one, DOUBT / number) >= 0 for one in answers)
                # Which candidate one half chose says nothing of its answers to the other: they are as any one's.
                others = [Images(rng, 500 // part, dense, 0.01) for _ in range(20 * draws)]
                judged = sum(today(one.right, one.answer(), DOUBT) >= 0 for one in others)
                rows.append({"floor": name, "candidates": number, "evolves": evolves, "draws": draws,
                             "judged": len(others), "held_out": judged / len(others),
                             **{key: count / draws for key, count in passed.items()}})  # fmt: skip
        print(f"{name} is done", flush=True)
    return rows


def proposed(images: Images, number: int, evolves: bool) -> Iterator[Bits]:
    """Answers of all candidates of a search."""
    best = images.answer()
    yield best
    for _ in range(number - 1):
        own = images.child(best) if evolves else images.answer()
        best = own if own.sum() > best.sum() else best
        yield own


def accuracy_power(rng: np.random.Generator, draws: int) -> list[dict[str, Any]]:
    """How often one candidate passes that is truly inside by so many points, on so many images that judge."""
    rows = []
    for name in ("drop", "top1"):
        for n in (100, 250, 500, 1000, 2000):
            power = {}
            for inside in (1, 2, 3, 5):
                bound = by_drop(0.01 + inside / 100) if name == "drop" else by_share(0.87 - inside / 100)
                drawn = [Images(rng, n, 0.88, 0.01) for _ in range(draws)]
                power[str(inside)] = sum(bound(one.right, one.answer(), DOUBT) >= 0 for one in drawn) / draws
            rows.append({"floor": name, "images": n, "draws": draws, "power": power})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--draws", type=int, default=600, help="series and searches of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chosen", action="store_true", help="make only the choices by latency of a file anew")
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    if asked.chosen:
        body = json.loads(asked.out.read_text(encoding="utf-8"))
    else:
        body = {
            "asked": {"draws": asked.draws, "seed": asked.seed, "spread": SPREAD, "ms": MS},
            "host": HostFacts.gather().as_record(),
            "latency": simulated_latency(rng, asked.draws),
            "stored": stored_latency(),
            "choices": choices(rng, asked.draws),
            "accuracy": accuracy_power(rng, asked.draws),
        }
    body["chosen"] = chosen_latency(np.random.default_rng(asked.seed), max(1, asked.draws // 3))
    atomic_text(asked.out, json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()

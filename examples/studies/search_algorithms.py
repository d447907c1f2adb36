"""How far each search algorithm is after the same number of evaluations, on made-up accuracies that cost nothing.

    python examples/studies/search_algorithms.py
    python examples/studies/search_algorithms.py --seeds 5 --evaluations 250

Twelve layers of 197 tokens, of which few matter (weights from a Dirichlet distribution with alpha 0.4), falling
returns, steps as on 500 images and a noise of one point. The last column is how many evaluations an algorithm needs
for the hypervolume that NSGA-II has in the end. ``tavt-official`` cannot go below its bound: drops of 0.2 in every
layer.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from statistics import mean

import numpy as np

from tavt_kit.core.front import hypervolume
from tavt_kit.core.layout import TokenLayout
from tavt_kit.core.schedule import TokenSchedule
from tavt_kit.search import ALGORITHMS, Outcome, Space
from tavt_kit.search.algorithms import make_algorithm

SPACE = Space(TokenLayout(197, 12))
IMAGES = 500

Worth = Callable[[TokenSchedule], float]


def cost(schedule: TokenSchedule) -> int:
    """Something like multiply-adds: attention by the square of what enters a layer, the rest by what leaves it."""
    entering = (schedule.counts[0], *schedule.counts[:-1])
    return sum(n * n + 600 * o for n, o in zip(entering, schedule.counts, strict=True))


def worth_of(seed: int) -> Worth:
    """A made-up model's accuracy."""
    weights = np.random.default_rng(seed).dirichlet(np.full(SPACE.layout.layers, 0.4))

    def worth(schedule: TokenSchedule) -> float:
        kept = np.array(schedule.counts) / SPACE.layout.tokens
        noise = random.Random(f"{seed} {schedule}").gauss(0, 0.01)
        return round(IMAGES * float(np.clip(0.8 * weights @ (1 - np.exp(-5 * kept)) + noise, 0, 1))) / IMAGES

    return worth


def volumes(name: str, worth: Worth, seed: int, evaluations: int) -> list[float]:
    """The hypervolume after each evaluation; shorter where the algorithm ends earlier."""
    algorithm = make_algorithm(name, SPACE, seed=seed, cost=cost, official_macs=cost, fits=lambda schedule: True)
    points: list[tuple[float, float]] = []
    found: list[float] = []
    while len(found) < evaluations and (proposals := algorithm.ask()):
        outcomes = [Outcome(cost(schedule), worth(schedule)) for schedule in proposals]
        algorithm.tell(outcomes)
        for outcome in outcomes:
            points.append((outcome.cost / cost(SPACE.dense), outcome.metric))
            found.append(hypervolume(points))
    return found[:evaluations]


def reached(found: list[float], aim: float) -> str:
    """After how many evaluations ``aim`` was reached."""
    return next((str(place) for place, volume in enumerate(found, 1) if volume >= aim), "never")


def main() -> None:
    """Print a line for each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=250)
    given = parser.parse_args()
    marks = sorted({min(mark, given.evaluations) for mark in (50, 100, given.evaluations)})
    runs = {
        name: [volumes(name, worth_of(seed), seed, given.evaluations) for seed in range(given.seeds)]
        for name in ALGORITHMS
    }
    heads = "".join(f"{mark:9}" for mark in marks)
    print(f"{'evaluations':15}{heads}  until NSGA-II's last hypervolume is reached, each seed")
    for name, found in runs.items():
        means = "".join(f"{mean(one[min(mark, len(one)) - 1] for one in found):9.4f}" for mark in marks)
        needed = ", ".join(reached(one, aim[-1]) for one, aim in zip(found, runs["nsga2"], strict=True))
        print(f"{name:15}{means}  {needed}")


if __name__ == "__main__":
    main()
